#include "tools/worker/machine.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "base/monotonic.h"
#include "partition/machine.h"
#include "tools/control/channel.h"
#include "vsp/storage/raw_file.h"
#include "vsp/storage/recording_backend.h"

namespace partita {
namespace {

// A guest that resets more often than this is in a boot loop; going on would only burn the host.
constexpr size_t kMaxResets = 10;
constexpr uint64_t kResetWindowMs = 60'000;

vmbus::Guid DeviceInstance(const std::string& partition_id, uint8_t device) {
  vmbus::Guid guid{};
  std::memcpy(guid.bytes, partition_id.data(), std::min(partition_id.size(), sizeof(guid.bytes)));
  guid.bytes[15] = static_cast<uint8_t>(guid.bytes[15] ^ device);
  return guid;
}

// Positions of devices in the instance GUIDs: the SCSI controller is 1.
constexpr uint8_t kFirstAdapter = 0x40;

// CPUs this process may run on.
uint32_t UsableCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return UINT32_MAX;  // more than the set holds
  return static_cast<uint32_t>(CPU_COUNT(&set));
}

void AddText(control::Reply& reply, std::string name, std::string value) {
  control::Pair* pair = reply.add_texts();
  pair->set_name(std::move(name));
  pair->set_value(std::move(value));
}

// Answers a request with how it ended, and nothing else.
std::function<void(const absl::Status&)> AnswerWithStatus(
    const std::function<void(control::Reply)>& reply) {
  return [reply](const absl::Status& status) {
    control::Reply message;
    if (!status.ok()) message.set_error(std::string(Message(status)));
    reply(std::move(message));
  };
}

std::string SerialNumber(const std::string& identity) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string text;
  for (const char c : identity.substr(0, 16)) {
    text += kHex[static_cast<uint8_t>(c) >> 4];
    text += kHex[static_cast<uint8_t>(c) & 15];
  }
  return text;
}

}  // namespace

Machine::Machine(EventLoop& loop, control::Start start, std::vector<UniqueFd> descriptors,
                 Events events)
    : loop_(loop),
      start_(std::move(start)),
      descriptors_(std::move(descriptors)),
      events_(std::move(events)),
      console_(loop,
               UniqueFd(start_.console() == control::CONSOLE_NONE
                            ? -1
                            : dup(Descriptor(start_.console_fd()))),
               start_.console() == control::CONSOLE_LISTEN) {}

Machine::~Machine() { console_.Attach(nullptr); }

int Machine::Descriptor(int32_t index) const {
  return index >= 0 && static_cast<size_t>(index) < descriptors_.size()
             ? descriptors_[static_cast<size_t>(index)].get()
             : -1;
}

absl::Status Machine::OpenDisks() {
  const uint32_t queues =
      start_.queues() != 0 ? std::min(start_.queues(), start_.cpus()) : start_.cpus();
  storage_ = std::make_unique<storage::StorageVsp>(
      storage::StorageVsp::Options{.instance = DeviceInstance(start_.partition_id(), 1),
                                   .subchannels = queues - 1,
                                   .shares_cpus = UsableCpus() <= start_.cpus()},
      storage::StorageVsp::Events{
          .space = [this](bool full) { loop_.Post([this, full] { OnSpace(full); }); },
          .poisoned =
              [this](uint32_t lun) {
                loop_.Post([this, lun] {
                  events_.notice("disk " + std::to_string(lun) +
                                 ": a flush failed; the disk takes no more writes");
                });
              }});
  for (const control::Disk& disk : start_.disks()) {
    auto file = storage::RawFile::Create(UniqueFd(fcntl(Descriptor(disk.fd()), F_DUPFD_CLOEXEC, 0)),
                                         {.read_only = disk.read_only(),
                                          .direct = disk.direct(),
                                          .logical_block = disk.logical_block()});
    if (!file.ok()) {
      return absl::Status(file.status().code(),
                          AbslView(disk.name() + ": " + std::string(Message(file.status()))));
    }
    storage::ScsiDisk::Identity identity;
    std::memcpy(identity.id.data(), disk.identity().data(),
                std::min(disk.identity().size(), identity.id.size()));
    identity.serial = SerialNumber(disk.identity());
    std::unique_ptr<storage::BlockBackend> backend = *std::move(file);
    if (const int record = Descriptor(disk.record_fd()); record >= 0) {
      backend = std::make_unique<storage::RecordingBackend>(
          std::move(backend), UniqueFd(fcntl(record, F_DUPFD_CLOEXEC, 0)));
    }
    storage_->AddDisk(std::make_unique<storage::ScsiDisk>(std::move(backend), std::move(identity)));
  }
  return absl::OkStatus();
}

absl::Status Machine::OpenAdapters() {
  for (const control::Adapter& adapter : start_.adapters()) {
    std::vector<UniqueFd> fds;
    for (const int32_t index : adapter.fds()) {
      fds.emplace_back(fcntl(Descriptor(index), F_DUPFD_CLOEXEC, 0));
    }
    absl::StatusOr<std::unique_ptr<network::NetBackend>> made =
        InvalidArgument("an adapter without a descriptor");
    switch (adapter.kind()) {
      case control::Adapter::TAP:
        made = network::MakeTapBackend(std::move(fds));
        break;
      case control::Adapter::STREAM:
        if (!fds.empty()) made = network::MakeStreamBackend(std::move(fds[0]));
        break;
      case control::Adapter::LOOPBACK:
        made = network::MakeLoopbackBackend(std::max(1u, adapter.queues()));
        break;
      default:
        made = network::MakeNullBackend(std::max(1u, adapter.queues()));
        break;
    }
    if (!made.ok()) {
      return absl::Status(made.status().code(),
                          AbslView(adapter.name() + ": " + std::string(Message(made.status()))));
    }
    network::NetworkVsp::Options options;
    const auto position = static_cast<uint8_t>(kFirstAdapter + adapters_.size());
    options.instance = DeviceInstance(start_.partition_id(), position);
    std::memcpy(options.mac.data(), adapter.mac().data(),
                std::min(adapter.mac().size(), options.mac.size()));
    options.queues = std::clamp(adapter.queues(), 1u, (*made)->properties().queues);
    options.vlan = static_cast<uint16_t>(adapter.vlan());
    options.shares_cpus = UsableCpus() <= start_.cpus();
    options.name = adapter.name();
    adapters_.push_back(
        std::make_unique<network::NetworkVsp>(std::move(options), *std::move(made)));
    if (adapter.kind() == control::Adapter::UNPLUGGED) adapters_.back()->SetLink(false);
  }
  return absl::OkStatus();
}

absl::Status Machine::Start() {
  if (start_.cpus() == 0 || start_.cpus() > machine::kMaxVps) {
    return InvalidArgument("a partition has 1 to 64 virtual processors");
  }
  const PageKind kind = start_.pages() == control::PAGES_HUGE          ? PageKind::kHuge
                        : start_.pages() == control::PAGES_TRANSPARENT ? PageKind::kTransparent
                                                                       : PageKind::kSmall;
  ASSIGN_OR_RETURN(ram_, GuestRam::Create(start_.memory_bytes(), kind));
  RETURN_IF_ERROR(OpenDisks());
  RETURN_IF_ERROR(OpenAdapters());
  return Build();
}

absl::Status Machine::Build() {
  incarnation_ = std::make_shared<bool>(true);
  // Events of VP threads become tasks of this thread, and die with their incarnation.
  auto post = [this, alive = std::weak_ptr<bool>(incarnation_)](auto task) {
    loop_.Post([alive, task = std::move(task)] {
      if (!alive.expired()) task();
    });
  };
  const bool kernel = start_.synic() == control::SYNIC_KERNEL;
  PartitionOptions options;
  options.vp_count = start_.cpus();
  options.synic = kernel ? SynicKind::kKernel : SynicKind::kUser;
  options.reference_tsc = start_.reference_tsc();
  options.eoi_assist = start_.eoi_assist();
  options.synthetic_timers = start_.synthetic_timers();
  options.affinity.assign(start_.affinity().begin(), start_.affinity().end());
  ASSIGN_OR_RETURN(
      partition_,
      Partition::Create(
          Descriptor(start_.kvm_fd()), *ram_, options,
          {.end =
               [this, post](EndReason reason, std::string detail) {
                 post([this, reason, detail = std::move(detail)] { OnEnd(reason, detail); });
               },
           .crash =
               [this, post](CrashReport report) {
                 post([this, report = std::move(report)] { OnCrash(report); });
               },
           .serial_output = [this, post] { post([this] { console_.OutputReady(); }); }}));
  console_.Attach(&partition_->serial());
  if (kernel) {
    ASSIGN_OR_RETURN(synic_, MakeKernelSynic(partition_->vm(), partition_->memory(), loop_));
  } else {
    ASSIGN_OR_RETURN(synic_, MakeUserSynic(partition_->vm(), partition_->memory(),
                                           partition_->clock(), start_.synthetic_timers()));
  }
  vmbus::ChannelStateMachine::Limits limits;
  if (start_.vmbus_version() != 0) limits.max_version = start_.vmbus_version();
  vmbus_ =
      std::make_unique<vmbus::VmbusServer>(loop_, partition_->memory(), *synic_, *synic_, limits);
  relay_ = std::make_unique<MessageRelay>(*vmbus_);
  storage_->Connect(*vmbus_);
  if (vmbus_->AddDevice(*storage_) == 0) return Internal("no channel for the SCSI controller");
  for (const auto& adapter : adapters_) {
    adapter->Connect(*vmbus_);
    if (vmbus_->AddDevice(*adapter) == 0) return Internal("no channel for a network adapter");
  }
  services_ = std::make_unique<Services>(loop_, partition_->clock());
  for (integration::IntegrationService* service : services_->all()) {
    if (vmbus_->AddDevice(*service) == 0) return Internal("no channel for a service");
  }
  RETURN_IF_ERROR(partition_->Connect(*synic_, *relay_));
  RETURN_IF_ERROR(partition_->Load({.kernel_fd = Descriptor(start_.kernel_fd()),
                                    .initrd_fd = Descriptor(start_.initrd_fd()),
                                    .command_line = start_.command_line()}));
  if (first_entry_us_ == 0 && start_.exec_monotonic_ns() != 0) {
    first_entry_us_ = (MonotonicNs() - start_.exec_monotonic_ns()) / 1000;
  }
  partition_->Start();
  paused_ = false;
  ApplyPause();
  return absl::OkStatus();
}

void Machine::TearDown(std::function<void()> then) {
  if (std::exchange(tearing_down_, true)) return;
  if (partition_ != nullptr) partition_->Stop();
  auto finish = [this, then = std::move(then)] {
    loop_.Post([this, then] {
      console_.Drain();
      console_.Attach(nullptr);
      DescribeIncarnation(retired_);
      incarnation_.reset();
      vmbus_.reset();
      services_.reset();
      synic_.reset();
      partition_.reset();
      relay_.reset();
      tearing_down_ = false;
      then();
    });
  };
  if (vmbus_ == nullptr) return finish();
  vmbus_->Shutdown(std::move(finish));
}

void Machine::Stop(int status, std::string reason) {
  if (std::exchange(ended_, true)) return;
  TearDown([this, status, reason = std::move(reason)] {
    int final_status = status;
    for (const auto& disk : storage_->disks()) {
      for (const int fd : disk->backend().files()) {
        if (!disk->backend().properties().read_only && fdatasync(fd) != 0) disk->Poison();
      }
    }
    if (storage_->any_poisoned()) final_status = control::kExitPoisonedDisk;
    events_.ended(final_status, reason);
  });
}

void Machine::OnEnd(EndReason reason, const std::string& detail) {
  switch (reason) {
    case EndReason::kPowerOff:
      return Stop(control::kExitPowerOff, detail);
    case EndReason::kTripleFault:
    case EndReason::kInternalError:
      return Stop(control::kExitMachineFault, detail);
    case EndReason::kReset:
      if (start_.on_reset() == control::RESET_EXIT) return Stop(control::kExitReset, detail);
      return Restart();
  }
}

void Machine::Restart() {
  if (tearing_down_ || ended_) return;
  const uint64_t now = MonotonicNs() / 1'000'000;
  while (!resets_.empty() && now - resets_.front() > kResetWindowMs) resets_.pop_front();
  resets_.push_back(now);
  ++reset_count_;
  if (resets_.size() > kMaxResets) {
    return Stop(control::kExitMachineFault,
                "the guest reset " + std::to_string(resets_.size()) + " times within a minute");
  }
  TearDown([this] {
    absl::Status status = ram_->Clear();
    if (status.ok()) status = Build();
    if (!status.ok()) {
      Stop(control::kExitMachineFault,
           "the machine could not be rebuilt after a reset: " + std::string(Message(status)));
    }
  });
}

void Machine::OnCrash(const CrashReport& report) {
  char line[160];
  snprintf(line, sizeof(line), "guest panic: P0=%#llx P1=%#llx P2=%#llx P3=%#llx P4=%#llx",
           static_cast<unsigned long long>(report.parameters[0]),
           static_cast<unsigned long long>(report.parameters[1]),
           static_cast<unsigned long long>(report.parameters[2]),
           static_cast<unsigned long long>(report.parameters[3]),
           static_cast<unsigned long long>(report.parameters[4]));
  Log(line);
  if (!report.text.empty()) LogGuestText("guest| ", report.text);
  Stop(control::kExitGuestPanic, "the guest panicked");
}

void Machine::OnSpace(bool full) {
  if (partition_ == nullptr || tearing_down_) return;
  paused_by_space_ = full;
  ApplyPause();
  if (full) {
    events_.notice("the host's disk is full; the partition is paused until there is room");
  } else {
    events_.notice("there is room on the host's disk again; the partition goes on");
  }
}

void Machine::ApplyPause() {
  const bool pause = paused_by_user_ || paused_by_space_;
  if (pause == paused_ || partition_ == nullptr) return;
  paused_ = pause;
  if (pause) return partition_->Pause();
  partition_->Resume();
  services_->time.Sync();  // its clock stood still, as far as the guest can tell
}

void Machine::Handle(const control::Request& request,
                     const std::function<void(control::Reply)>& reply) {
  const auto answer = AnswerWithStatus(reply);
  if (partition_ == nullptr || services_ == nullptr || tearing_down_ || ended_) {
    return answer(Unavailable("the partition is being reset or ends"));
  }
  switch (request.kind_case()) {
    case control::Request::kShutdownGuest: {
      const auto kind =
          static_cast<integration::ShutdownService::Kind>(request.shutdown_guest().kind());
      return services_->shutdown.Shutdown(kind, request.shutdown_guest().force(), answer);
    }
    case control::Request::kPowerOff:
      answer(absl::OkStatus());
      return Stop(control::kExitPowerOff, "powered off by request");
    case control::Request::kResetNow:
      answer(absl::OkStatus());
      return OnEnd(EndReason::kReset, "reset by request");
    case control::Request::kPause:
    case control::Request::kResume:
      paused_by_user_ = request.has_pause();
      ApplyPause();
      return answer(absl::OkStatus());
    case control::Request::kSyncTime:
      return answer(services_->time.Sync() ? absl::OkStatus() : services_->time.NotReady());
    case control::Request::kKeyValues:
      return HandleKeyValues(request.key_values(), reply);
    case control::Request::kGetStatus: {
      control::Reply message;
      Describe(message);
      return reply(std::move(message));
    }
    case control::Request::kLiveStats: {
      StatSink sink;
      DescribeTo(sink);
      control::Reply message;
      for (const auto& [name, value] : sink.values()) (*message.mutable_numbers())[name] = value;
      return reply(std::move(message));
    }
    default:
      return answer(InvalidArgument("a request that a partition does not know"));
  }
}

void Machine::HandleKeyValues(const control::KeyValues& request,
                              const std::function<void(control::Reply)>& reply) {
  integration::KeyValueService& service = services_->key_values;
  const auto answer = AnswerWithStatus(reply);
  switch (request.operation()) {
    case control::KeyValues::SET:
      return service.Set(request.key(), request.value(), answer);
    case control::KeyValues::DELETE:
      return service.Delete(request.key(), answer);
    default:
      break;
  }
  constexpr uint32_t kLastPool = 4;
  if (request.pool() > kLastPool) return answer(InvalidArgument("pools have numbers 0 to 4"));
  service.List(static_cast<uint8_t>(request.pool()), [reply, answer](auto pairs) {
    if (!pairs.ok()) return answer(pairs.status());
    control::Reply message;
    for (auto& [name, value] : *pairs) AddText(message, std::move(name), std::move(value));
    reply(std::move(message));
  });
}

void Machine::Describe(control::Reply& reply) const {
  AddText(reply, "name", start_.name());
  AddText(reply, "state",
          paused_by_space_ ? "Paused (the host's disk is full)"
          : paused_        ? "Paused"
                           : "Running");
  AddText(reply, "heartbeat", services_->heartbeat.state_name());
  const uint32_t version = vmbus_->machine().connected() ? vmbus_->machine().version() : 0;
  AddText(reply, "vmbus",
          version == 0 ? "none"
                       : std::to_string(version >> 16) + "." + std::to_string(version & 0xFFFF));
  AddText(reply, "synic", start_.synic() == control::SYNIC_KERNEL ? "kernel" : "user");
  (*reply.mutable_numbers())["cpus"] = start_.cpus();
  (*reply.mutable_numbers())["memory_bytes"] = start_.memory_bytes();
  (*reply.mutable_numbers())["resets"] = reset_count_;
  for (integration::IntegrationService* service : services_->all()) {
    (*reply.mutable_numbers())[std::string("service.") + service->name()] =
        service->ready() ? 1 : 0;
  }
}

void Machine::DescribeIncarnation(StatSink& sink) const {
  if (partition_ != nullptr) partition_->DescribeTo(sink);
  if (synic_ != nullptr) synic_->DescribeTo(sink);
  if (vmbus_ != nullptr) vmbus_->DescribeTo(sink);
  if (services_ != nullptr) {
    for (integration::IntegrationService* service : services_->all()) service->DescribeTo(sink);
  }
}

void Machine::DescribeTo(StatSink& sink) const {
  for (const auto& [name, value] : retired_.values()) sink.Add(name, value);
  DescribeIncarnation(sink);
  if (storage_ != nullptr) storage_->DescribeTo(sink);
  for (const auto& adapter : adapters_) adapter->DescribeTo(sink);
  sink.Add("machine.resets", reset_count_);
  sink.Add("machine.first_entry_us", first_entry_us_);
  if (ram_ != nullptr) sink.Add("memory.allocated_bytes", ram_->AllocatedBytes());
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) == 0) {
    sink.Add("process.peak_rss_bytes", static_cast<uint64_t>(usage.ru_maxrss) << 10);
  }
}

}  // namespace partita
