#include "vsp/integration/file_services.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "vsp/integration/answer.h"
#include "vsp/integration/services.h"

namespace partita::integration {
namespace {

namespace proto = vmbus::integration;
using vmbus::ParseGuid;

constexpr uint32_t kFreezeMs = 120'000;  // dirty data is written first
constexpr uint32_t kAnswerMs = 35'000;   // Linux gives its daemon 30 s

absl::Status CopyStatus(const IntegrationService::Answer& answer) {
  if (answer.status.ok() && answer.guest_status == proto::kStatusExists) {
    return absl::Status(absl::StatusCode::kAlreadyExists, "the guest has a file of that name");
  }
  if (answer.status.ok() && answer.guest_status == proto::kStatusDiskFull) {
    return ResourceExhausted("the guest's disk is full");
  }
  return StatusOf(answer, "the guest did not take the file");
}

}  // namespace

SnapshotService::SnapshotService(EventLoop& loop)
    : IntegrationService(loop, {.name = "volume snapshot",
                                .daemon = "hv_vss_daemon",
                                .type = vmbus::kSnapshotClass,
                                .instance = ParseGuid("2450ee40-33bf-4fbd-892e-9fb06e9214cf"),
                                .message_type = proto::kSnapshot,
                                .versions = {{5, 0}}}) {}

void SnapshotService::Request(uint8_t operation, uint32_t timeout_ms,
                              std::function<void(Answer)> done) {
  proto::Snapshot body{};
  body.operation = operation;
  Ask(BytesOf(body), timeout_ms, std::move(done));
}

void SnapshotService::Freeze(uint32_t seconds, const std::function<void(absl::Status)>& done) {
  if (frozen_ != 0) return done(FailedPrecondition("the guest's file systems are frozen already"));
  // A second freeze would fail in the guest, and undoing it would thaw what the first one holds.
  if (freezing_) return done(FailedPrecondition("the guest's file systems are being frozen"));
  freezing_ = true;
  // First whether the guest can: a daemon that is not there says so without freezing anything.
  Request(proto::kSnapshotCheck, kAnswerMs, [this, seconds, done](const Answer& check) {
    const absl::Status able = StatusOf(check, "the guest cannot freeze its file systems");
    if (!able.ok()) {
      freezing_ = false;
      return done(able);
    }
    Request(proto::kSnapshotFreeze, kFreezeMs, [this, seconds, done](const Answer& answer) {
      freezing_ = false;
      absl::Status status = StatusOf(answer, "the guest did not freeze its file systems");
      if (!status.ok()) {
        // Some of them may stand still.
        Request(proto::kSnapshotThaw, kAnswerMs, [](const Answer&) {});
        return done(std::move(status));
      }
      frozen_ = ++freezes_;
      After(seconds * 1000, [this, number = frozen_] {
        if (frozen_ != number) return;
        frozen_ = 0;
        Request(proto::kSnapshotThaw, kAnswerMs, [](const Answer&) {});
      });
      done(absl::OkStatus());
    });
  });
}

void SnapshotService::Thaw(std::function<void(absl::Status)> done) {
  if (frozen_ == 0) {
    return done(
        FailedPrecondition("the guest's file systems are not frozen (any more): a copy made of "
                           "them may not be whole"));
  }
  frozen_ = 0;
  Request(proto::kSnapshotThaw, kAnswerMs, [done = std::move(done)](const Answer& answer) {
    done(StatusOf(answer, "the guest did not thaw its file systems"));
  });
}

FileCopyService::FileCopyService(EventLoop& loop)
    : IntegrationService(loop, {.name = "guest file copy",
                                .daemon = "hv_fcopy_daemon",
                                .type = vmbus::kFileCopyClass,
                                .instance = ParseGuid("eb765408-105f-49b6-b4aa-c123b64d17d4"),
                                .message_type = proto::kFileCopy,
                                .versions = {{1, 1}}}) {}

void FileCopyService::Copy(Job job, std::function<void(absl::StatusOr<uint64_t>)> done) {
  if (busy_) return done(Unavailable("a file is being copied already"));
  struct stat info {};
  if (fstat(job.source.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return done(InvalidArgument("only regular files can be copied"));
  }
  proto::FileCopyStart start{};
  start.header.operation = proto::kCopyStart;
  bool fits = true;
  auto put = [&fits](uint16_t(&to)[260], const std::string& text) {
    const std::vector<uint8_t> wide = ToUtf16(text);
    fits = fits && wide.size() <= sizeof(to) && wide.size() > sizeof(uint16_t);
    if (fits) std::memcpy(to, wide.data(), wide.size());
  };
  put(start.name, job.name);
  put(start.path, job.directory);
  if (!fits || job.directory[0] != '/' || job.name.find('/') != std::string::npos) {
    return done(
        InvalidArgument("a file in the guest has an absolute path of at most 259 characters"));
  }
  const auto size = static_cast<uint64_t>(info.st_size);
  start.flags = (job.overwrite ? proto::kCopyOverwrite : 0) |
                (job.create_directory ? proto::kCopyCreatePath : 0);
  start.size_low = static_cast<uint32_t>(size);
  start.size_high = static_cast<uint32_t>(size >> 32);
  busy_ = true;
  auto running = std::make_shared<Running>();
  running->job = std::move(job);
  running->size = size;
  running->done = std::move(done);
  Ask(BytesOf(start), kAnswerMs, [this, running](const Answer& answer) {
    absl::Status status = CopyStatus(answer);
    if (!status.ok()) {
      busy_ = false;  // nothing was begun
      return running->done(std::move(status));
    }
    Next(running);
  });
}

void FileCopyService::Next(const std::shared_ptr<Running>& running) {
  if (running->offset >= running->size) {
    proto::FileCopyHeader complete{};
    complete.operation = proto::kCopyComplete;
    Ask(BytesOf(complete), kAnswerMs, [this, running](const Answer& answer) {
      busy_ = false;
      absl::Status status = CopyStatus(answer);
      if (!status.ok()) return running->done(std::move(status));
      running->done(running->offset);
    });
    return;
  }
  proto::FileCopyWrite write{};
  write.header.operation = proto::kCopyWrite;
  write.offset_low = static_cast<uint32_t>(running->offset);
  write.offset_high = static_cast<uint32_t>(running->offset >> 32);
  const uint64_t wanted = std::min<uint64_t>(proto::kCopyFragment, running->size - running->offset);
  const ssize_t got =
      pread(running->job.source.get(), write.data, wanted, static_cast<off_t>(running->offset));
  if (got <= 0) {
    return Fail(running, got < 0
                             ? SystemError("reading the file")
                             : FailedPrecondition("the file became shorter while it was copied"));
  }
  write.size = static_cast<uint32_t>(got);
  running->offset += static_cast<uint64_t>(got);
  Ask(BytesOf(write), kAnswerMs, [this, running](const Answer& answer) {
    absl::Status status = CopyStatus(answer);
    if (!status.ok()) return Fail(running, std::move(status));
    Next(running);
  });
}

void FileCopyService::Fail(const std::shared_ptr<Running>& running, absl::Status status) {
  proto::FileCopyHeader cancel{};
  cancel.operation = proto::kCopyCancel;
  Ask(BytesOf(cancel), kAnswerMs, [this, running, status = std::move(status)](const Answer&) {
    busy_ = false;
    running->done(status);
  });
}

}  // namespace partita::integration
