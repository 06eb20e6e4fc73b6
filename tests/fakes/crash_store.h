// A file in memory that remembers everything that was done to it, for tests that cut the power: an
// image's file as its format's code uses it, both for opening and for a guest's I/O. Requests end
// inside Submit. One thread.
#ifndef PARTITA_TESTS_FAKES_CRASH_STORE_H_
#define PARTITA_TESTS_FAKES_CRASH_STORE_H_

#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

#include "tests/fakes/memory_image.h"
#include "vsp/storage/block/mapped_disk.h"

namespace partita::storage {

class CrashStore {
 public:
  struct Event {
    enum class Kind : uint8_t { kWrite, kZeroes, kExtend, kFlush, kMark } kind = Kind::kFlush;
    uint64_t offset = 0;  // kExtend: the size; kMark: the test's own
    uint64_t length = 0;
    std::vector<std::byte> bytes;
  };

  MemoryImage image;
  std::vector<Event> events;
  bool full = false;    // the host's disk: what would need room fails
  int flush_error = 0;  // errno of every flush
  uint64_t flushes = 0;

  void Record(Event event) {
    static_cast<void>(Apply(image, event));
    if (event.kind == Event::Kind::kFlush) ++flushes;
    events.push_back(std::move(event));
  }
  // What an event does to a file; `keep` bytes of a write arrive.
  static absl::Status Apply(MemoryImage& to, const Event& event, size_t keep = SIZE_MAX) {
    switch (event.kind) {
      case Event::Kind::kWrite:
        return to.Write(event.offset,
                        std::span(event.bytes).first(std::min(keep, event.bytes.size())));
      case Event::Kind::kZeroes:
        if (event.offset >= to.size()) return absl::OkStatus();
        return to.WriteZeroes(event.offset, std::min(event.length, to.size() - event.offset));
      case Event::Kind::kExtend:
        return to.Extend(event.offset);
      case Event::Kind::kFlush:
      case Event::Kind::kMark:
        break;
    }
    return absl::OkStatus();
  }

  // The file as a layer of a chain; the store outlives it.
  MappedFile Open() {
    return {.data = std::make_unique<Data>(*this), .image = std::make_unique<Image>(*this)};
  }

 private:
  using Kind = Event::Kind;

  class Image final : public ImageFile {
   public:
    explicit Image(CrashStore& store) : store_(store) {}
    [[nodiscard]] uint64_t size() const override { return store_.image.size(); }
    absl::Status Read(uint64_t offset, std::span<std::byte> to) const override {
      return store_.image.Read(offset, to);
    }
    absl::Status Write(uint64_t offset, std::span<const std::byte> from) override {
      store_.Record({.kind = Kind::kWrite, .offset = offset, .bytes = {from.begin(), from.end()}});
      return absl::OkStatus();
    }
    absl::Status WriteZeroes(uint64_t offset, uint64_t length) override {
      store_.Record({.kind = Kind::kExtend, .offset = offset + length, .bytes = {}});
      store_.Record({.kind = Kind::kZeroes, .offset = offset, .length = length, .bytes = {}});
      return absl::OkStatus();
    }
    absl::Status Extend(uint64_t size) override {
      if (store_.full) return ResourceExhausted("no room");
      if (size > store_.image.size()) {
        store_.Record({.kind = Kind::kExtend, .offset = size, .bytes = {}});
      }
      return absl::OkStatus();
    }
    absl::Status Flush() override {
      if (store_.flush_error != 0) return SystemError("flushing", store_.flush_error);
      store_.Record({.kind = Kind::kFlush, .bytes = {}});
      return absl::OkStatus();
    }

   private:
    CrashStore& store_;
  };

  class Data final : public BlockBackend {
   public:
    explicit Data(CrashStore& store) : store_(store) {}
    [[nodiscard]] const BlockProperties& properties() const override { return properties_; }
    [[nodiscard]] std::vector<int> files() const override { return {}; }
    [[nodiscard]] std::vector<uint8_t> opcodes() const override { return {}; }
    absl::StatusOr<std::unique_ptr<BlockQueue>> OpenQueue(IoRing&, int, LoopPoster) override {
      return std::make_unique<Queue>(store_);
    }
    [[nodiscard]] absl::Status Sync() override { return Image(store_).Flush(); }
    void DescribeTo(StatSink&) const override {}

   private:
    CrashStore& store_;
    BlockProperties properties_;
  };

  class Queue final : public BlockQueue {
   public:
    explicit Queue(CrashStore& store) : store_(store) {}
    void Submit(std::span<BlockRequest* const> requests) override {
      for (BlockRequest* request : requests) request->owner->OnBlockDone(*request, Do(*request));
    }

   private:
    int Do(const BlockRequest& request) {
      switch (request.op) {
        case BlockOp::kRead:
        case BlockOp::kWrite: {
          std::vector<std::byte> bytes(request.length);
          const bool write = request.op == BlockOp::kWrite;
          if (!write && !store_.image.Read(request.offset, bytes).ok()) return EIO;
          size_t at = 0;
          for (const iovec& v : request.iovecs) {
            std::memcpy(write ? bytes.data() + at : v.iov_base,
                        write ? v.iov_base : bytes.data() + at, v.iov_len);
            at += v.iov_len;
          }
          if (write && store_.full) return ENOSPC;
          if (write) {
            store_.Record(
                {.kind = Kind::kWrite, .offset = request.offset, .bytes = std::move(bytes)});
          }
          return 0;
        }
        case BlockOp::kFlush:
          if (store_.flush_error != 0) return store_.flush_error;
          store_.Record({.kind = Kind::kFlush, .bytes = {}});
          return 0;
        case BlockOp::kDiscard:
        case BlockOp::kWriteZeroes:
          store_.Record({.kind = Kind::kZeroes,
                         .offset = request.offset,
                         .length = request.length,
                         .bytes = {}});
          return 0;
      }
      return EINVAL;
    }
    CrashStore& store_;
  };
};

}  // namespace partita::storage

#endif  // PARTITA_TESTS_FAKES_CRASH_STORE_H_
