#include "tools/worker/machine.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "base/monotonic.h"
#include "partition/machine.h"
#include "tools/control/channel.h"
#include "tools/control/identity.h"
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
constexpr uint8_t kController = 1, kFirstAdapter = 0x40, kFirstAddedDisk = 0x80;
constexpr size_t kMaxDevices = 32;

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

std::string MacOf(const network::NetworkVsp& adapter) {
  const network::MacAddress& mac = adapter.options().mac;
  return MacText({reinterpret_cast<const char*>(mac.data()), mac.size()});
}

std::string InstanceText(const network::NetworkVsp& adapter) {
  char text[39] = {};
  vmbus::GuidText(adapter.options().instance, text);
  return text;
}

// Answers with a number of bytes, or why there is none.
std::function<void(absl::StatusOr<uint64_t>)> AnswerWithBytes(
    const std::function<void(control::Reply)>& reply) {
  return [reply](const absl::StatusOr<uint64_t>& bytes) {
    control::Reply message;
    if (bytes.ok()) {
      (*message.mutable_numbers())["bytes"] = *bytes;
    } else {
      message.set_error(std::string(Message(bytes.status())));
    }
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
               UniqueFd(start_.console() == control::CONSOLE_NONE ||
                                start_.console() == control::CONSOLE_HUB
                            ? -1
                            : dup(Descriptor(start_.console_fd()))),
               start_.console() == control::CONSOLE_LISTEN ? Console::Kind::kListen
               : start_.console() == control::CONSOLE_HUB  ? Console::Kind::kHub
                                                           : Console::Kind::kStream) {}

Machine::~Machine() { console_.Attach(nullptr); }

int Machine::Descriptor(int32_t index) const {
  return index >= 0 && static_cast<size_t>(index) < descriptors_.size()
             ? descriptors_[static_cast<size_t>(index)].get()
             : -1;
}

std::unique_ptr<storage::StorageVsp> Machine::NewController(uint8_t position,
                                                            const std::string& name) {
  const uint32_t queues =
      start_.queues() != 0 ? std::min(start_.queues(), start_.cpus()) : start_.cpus();
  return std::make_unique<storage::StorageVsp>(
      storage::StorageVsp::Options{.instance = DeviceInstance(start_.partition_id(), position),
                                   .subchannels = queues - 1,
                                   .shares_cpus = UsableCpus() <= start_.cpus()},
      storage::StorageVsp::Events{
          .space = [this](bool full) { loop_.Post([this, full] { OnSpace(full); }); },
          .poisoned =
              [this, name](uint32_t lun) {
                loop_.Post([this, name, lun] {
                  events_.notice(name + std::to_string(lun) +
                                 ": a flush failed; the disk takes no more writes");
                });
              }});
}

absl::Status Machine::AddDiskTo(storage::StorageVsp& controller, const control::Disk& disk,
                                UniqueFd fd, UniqueFd record) {
  auto file = storage::RawFile::Create(std::move(fd), {.read_only = disk.read_only(),
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
  if (record.valid()) {
    backend = std::make_unique<storage::RecordingBackend>(std::move(backend), std::move(record));
  }
  controller.AddDisk(std::make_unique<storage::ScsiDisk>(std::move(backend), std::move(identity)));
  return absl::OkStatus();
}

absl::Status Machine::OpenDisks() {
  storage_ = NewController(kController, "disk ");
  for (const control::Disk& disk : start_.disks()) {
    RETURN_IF_ERROR(AddDiskTo(*storage_, disk, Duplicate(disk.fd()), Duplicate(disk.record_fd())));
  }
  for (const control::Adapter& adapter : start_.adapters()) {
    std::vector<UniqueFd> fds;
    for (const int32_t index : adapter.fds()) fds.push_back(Duplicate(index));
    RETURN_IF_ERROR(AddAdapter(adapter, std::move(fds)));
  }
  return absl::OkStatus();
}

UniqueFd Machine::Duplicate(int32_t index) const {
  const int fd = Descriptor(index);
  return UniqueFd(fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

absl::Status Machine::AddAdapter(const control::Adapter& adapter, std::vector<UniqueFd> fds) {
  absl::StatusOr<std::unique_ptr<network::NetBackend>> made =
      InvalidArgument("an adapter without a descriptor");
  const uint32_t queues = std::max(1u, adapter.queues());
  switch (adapter.kind()) {
    case control::Adapter::TAP:
      made = network::MakeTapBackend(std::move(fds));
      break;
    case control::Adapter::STREAM:
      if (!fds.empty()) made = network::MakeStreamBackend(std::move(fds[0]));
      break;
    case control::Adapter::LOOPBACK:
      made = network::MakeLoopbackBackend(queues);
      break;
    default:
      made = network::MakeNullBackend(queues);
      break;
  }
  if (!made.ok()) {
    return absl::Status(made.status().code(),
                        AbslView(adapter.name() + ": " + std::string(Message(made.status()))));
  }
  network::NetworkVsp::Options options;
  std::memcpy(options.mac.data(), adapter.mac().data(),
              std::min(adapter.mac().size(), options.mac.size()));
  for (const auto& other : devices_) {
    if (other->adapter != nullptr && other->adapter->options().mac == options.mac) {
      return InvalidArgument("another adapter has that address");
    }
  }
  auto device = std::make_unique<Device>();
  device->position = FreePosition(kFirstAdapter);
  device->id = "nic" + std::to_string(next_adapter_++);
  options.instance = DeviceInstance(start_.partition_id(), device->position);
  options.queues = std::clamp(queues, 1u, (*made)->properties().queues);
  options.vlan = static_cast<uint16_t>(adapter.vlan());
  options.shares_cpus = UsableCpus() <= start_.cpus();
  options.name = adapter.name();
  options.port = {.spoof = adapter.spoof(),
                  .dhcp_guard = adapter.dhcp_guard(),
                  .router_guard = adapter.router_guard()};
  options.notice = [this](std::string text) {
    loop_.Post([this, text = std::move(text)] { events_.notice(text); });
  };
  device->adapter = std::make_unique<network::NetworkVsp>(std::move(options), *std::move(made));
  if (adapter.kind() == control::Adapter::UNPLUGGED) device->adapter->SetLink(false);
  devices_.push_back(std::move(device));
  return absl::OkStatus();
}

uint8_t Machine::FreePosition(uint8_t first) const {
  uint8_t position = first;
  while (std::any_of(devices_.begin(), devices_.end(),
                     [&](const auto& d) { return d->position == position; })) {
    ++position;
  }
  return position;
}

Machine::Device* Machine::FindDevice(const std::string& id) {
  const auto it = std::find_if(devices_.begin(), devices_.end(),
                               [&](const auto& d) { return d->id == id && !d->leaving; });
  return it == devices_.end() ? nullptr : it->get();
}

absl::Status Machine::OfferDevice(Device& device) {
  if (device.disk != nullptr) device.disk->Connect(*vmbus_);
  if (device.adapter != nullptr) device.adapter->Connect(*vmbus_);
  device.relid = vmbus_->AddDevice(device.channel_device());
  return device.relid == 0 ? Internal("no channel for " + device.id) : absl::OkStatus();
}

// What was being removed when the machine was reset is gone.
void Machine::ForgetLeaving() {
  std::erase_if(devices_, [](const auto& device) { return device->leaving; });
}

absl::Status Machine::Start() {
  if (start_.cpus() == 0 || start_.cpus() > machine::kMaxVps) {
    return InvalidArgument("a partition has 1 to 64 virtual processors");
  }
  const PageKind kind = start_.pages() == control::PAGES_HUGE     ? PageKind::kHuge
                        : start_.pages() == control::PAGES_SMALL  ? PageKind::kSmall
                        : start_.pages() == control::PAGES_SHARED ? PageKind::kShared
                                                                  : PageKind::kAuto;
  ASSIGN_OR_RETURN(ram_,
                   GuestRam::Create(start_.memory_bytes(), kind, start_.maximum_memory_bytes()));
  RETURN_IF_ERROR(OpenDisks());
  ASSIGN_OR_RETURN(sockets_, socket::SocketHub::Create(loop_, events_.socket_wanted));
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
  const std::string& identity = start_.partition_id();
  std::memcpy(options.smbios.uuid.data(), identity.data(),
              std::min(identity.size(), options.smbios.uuid.size()));
  options.smbios.asset_tag = start_.asset_tag();
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
  for (const auto& device : devices_) RETURN_IF_ERROR(OfferDevice(*device));
  services_ = std::make_unique<Services>(loop_, partition_->clock(), MemoryHost());
  std::vector<integration::MessageChannel*> services = {&services_->memory, &services_->keyboard};
  for (integration::IntegrationService* service : services_->all()) services.push_back(service);
  for (integration::MessageChannel* service : services) {
    services_->offered[service] = {};
    if (services_off_.contains(service->name())) continue;
    RETURN_IF_ERROR(OfferService(*service));
  }
  sockets_->Connect(*vmbus_);
  vmbus_->OnSocketConnect([this](const vmbus::Guid& endpoint, const vmbus::Guid& service) {
    sockets_->OnGuestConnect(endpoint, service);
  });
  RETURN_IF_ERROR(partition_->Connect(*synic_, *relay_));
  RETURN_IF_ERROR(partition_->Load({.kernel_fd = Descriptor(start_.kernel_fd()),
                                    .initrd_fd = Descriptor(start_.initrd_fd()),
                                    .command_line = start_.command_line()}));
  if (first_entry_us_ == 0 && start_.exec_monotonic_ns() != 0) {
    first_entry_us_ = (MonotonicNs() - start_.exec_monotonic_ns()) / 1000;
  }
  RETURN_IF_ERROR(partition_->Start());
  paused_ = false;
  ApplyPause();
  return absl::OkStatus();
}

void Machine::TearDown() {
  if (std::exchange(tearing_down_, true)) return;  // what comes behind it looks at what is wanted
  if (partition_ != nullptr) partition_->Stop();
  auto finish = [this] {
    loop_.Post([this] {
      console_.Drain();
      console_.Attach(nullptr);
      DescribeIncarnation(retired_);
      incarnation_.reset();
      sockets_->Forget();
      vmbus_.reset();
      services_.reset();
      synic_.reset();
      partition_.reset();
      relay_.reset();
      SyncLeaving([this] {
        tearing_down_ = false;
        AfterTearDown();
      });
    });
  };
  if (vmbus_ == nullptr) return finish();
  vmbus_->Shutdown(std::move(finish));
}

absl::Status Machine::OfferService(integration::MessageChannel& service) {
  const uint32_t relid = vmbus_->AddDevice(service);
  services_->offered[&service] = {.relid = relid};
  return relid == 0 ? Internal("no channel for a service") : absl::OkStatus();
}

// On a thread of its own: a slow disk must not make the partition deaf to signals and requests.
void Machine::SyncDisks(std::vector<storage::StorageVsp*> controllers,
                        std::function<void(absl::Status)> done) {
  auto thread = std::make_shared<std::thread>();
  auto sync = [this, thread, controllers = std::move(controllers), done = std::move(done)] {
    absl::Status status;
    for (const storage::StorageVsp* controller : controllers) {
      absl::Status one = controller->Sync();
      if (status.ok()) status = std::move(one);
    }
    loop_.Post([this, thread, done, status] {
      if (thread->joinable()) thread->join();
      --syncs_;
      done(status);
      if (syncs_ > 0) return;
      for (const auto& waiting : std::exchange(after_syncs_, {})) waiting();
    });
  };
  ++syncs_;
  try {
    *thread = std::thread(sync);
  } catch (const std::system_error&) {
    sync();  // the host has no thread left: later rather than not at all
  }
}

// Disks that were leaving when the partition ended go with it, but not what was written to them.
void Machine::SyncLeaving(std::function<void()> then) {
  after_syncs_.push_back([this, then = std::move(then)] {
    ForgetLeaving();
    then();
  });
  SyncDisks(Controllers(true), [this](const absl::Status& status) { NoteSync(status); });
}

void Machine::NoteSync(const absl::Status& status) {
  if (status.ok()) return;
  flush_failed_ = true;
  events_.notice("a disk that leaves could not be flushed: " + std::string(Message(status)));
}

std::vector<storage::StorageVsp*> Machine::Controllers(bool leaving_only) const {
  std::vector<storage::StorageVsp*> controllers;
  if (!leaving_only) controllers.push_back(storage_.get());
  for (const auto& device : devices_) {
    if (device->disk != nullptr && (device->leaving || !leaving_only)) {
      controllers.push_back(device->disk.get());
    }
  }
  return controllers;
}

void Machine::Stop(int status, std::string reason) {
  if (ending_) return;
  ending_ = {.status = status, .reason = std::move(reason)};
  TearDown();
}

void Machine::AfterTearDown() {
  if (!ending_) {
    absl::Status status = ram_->Clear();
    if (status.ok()) status = Build();
    if (!status.ok()) {
      Stop(control::kExitMachineFault,
           "the machine could not be rebuilt after a reset: " + std::string(Message(status)));
    }
    return;
  }
  SyncDisks(Controllers(false), [this](const absl::Status& synced) {
    const bool lost = !synced.ok() || flush_failed_;
    events_.ended(lost ? control::kExitPoisonedDisk : ending_->status, ending_->reason);
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
  if (tearing_down_ || ending_) return;
  const uint64_t now = MonotonicNs() / 1'000'000;
  while (!resets_.empty() && now - resets_.front() > kResetWindowMs) resets_.pop_front();
  resets_.push_back(now);
  ++reset_count_;
  if (resets_.size() > kMaxResets) {
    return Stop(control::kExitMachineFault,
                "the guest reset " + std::to_string(resets_.size()) + " times within a minute");
  }
  TearDown();
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
  // Counted at any time: a reset takes back what waited, while there is no machine to resume.
  const bool before = waiting_for_space_ > 0;
  waiting_for_space_ += full ? 1 : -1;
  const bool now = waiting_for_space_ > 0;
  if (now == before || partition_ == nullptr || tearing_down_) return;
  ApplyPause();
  if (now) {
    events_.notice("the host's disk is full; the partition is paused until there is room");
  } else {
    events_.notice("there is room on the host's disk again; the partition goes on");
  }
}

void Machine::ApplyPause() {
  const bool pause = paused_by_user_ || waiting_for_space_ > 0;
  if (pause == paused_ || partition_ == nullptr) return;
  paused_ = pause;
  if (pause) partition_->Pause();
  // What a guest that stands does not read would fill the rings.
  services_->heartbeat.SetPaused(pause);
  services_->time.SetPaused(pause);
  if (!pause) partition_->Resume();
  TellCondition();
}

// Answers once, and in any case within a limit: a guest that never answers holds a place of those
// who ask, and they are told.
Machine::Replier Machine::WithLimit(const Replier& reply) {
  constexpr uint32_t kLimitMs = 150'000;  // longer than every service's own; `ctl` waits for 180 s
  struct State {
    Replier reply;
  };
  auto state = std::make_shared<State>(State{reply});
  // Most are answered before the loop comes round: these need no timer.
  loop_.Post([this, weak = std::weak_ptr<State>(state)] {
    const auto pending = weak.lock();
    if (pending == nullptr || pending->reply == nullptr) return;
    loop_.After(kLimitMs, [weak] {
      const auto late = weak.lock();
      if (late == nullptr || late->reply == nullptr) return;
      control::Reply message;
      message.set_error("the guest has not answered for 150 seconds");
      std::exchange(late->reply, nullptr)(std::move(message));
    });
  });
  return [state](control::Reply message) {
    if (state->reply != nullptr) std::exchange(state->reply, nullptr)(std::move(message));
  };
}

void Machine::Handle(const control::Request& request, std::vector<UniqueFd> descriptors,
                     const Replier& asked) {
  const Replier reply = WithLimit(asked);
  const auto answer = AnswerWithStatus(reply);
  if (partition_ == nullptr || services_ == nullptr || tearing_down_ || ending_) {
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
    case control::Request::kAddDisk:
      return HandleAddDisk(request.add_disk().disk(), std::move(descriptors), reply);
    case control::Request::kAddAdapter:
      return HandleAddAdapter(request.add_adapter().adapter(), std::move(descriptors), reply);
    case control::Request::kRemoveDevice:
      return HandleRemove(request.remove_device().id(), answer);
    case control::Request::kSetLink: {
      Device* device = FindDevice(request.set_link().id());
      if (device == nullptr || device->adapter == nullptr) {
        return answer(InvalidArgument("there is no adapter '" + request.set_link().id() + "'"));
      }
      device->adapter->SetLink(request.set_link().up());
      return answer(absl::OkStatus());
    }
    case control::Request::kAttachConsole:
      if (descriptors.empty()) return answer(console_.MayVisit(request.attach_console().write()));
      return answer(
          console_.AddVisitor(std::move(descriptors[0]), request.attach_console().write()));
    case control::Request::kFreeze:
      return services_->snapshot.Freeze(std::clamp(request.freeze().seconds(), 1u, 300u), answer);
    case control::Request::kThaw:
      return services_->snapshot.Thaw(answer);
    case control::Request::kCopyFile: {
      if (descriptors.empty()) return answer(InvalidArgument("no file came with the request"));
      integration::FileCopyService::Job job;
      job.source = std::move(descriptors[0]);
      job.name = request.copy_file().name();
      job.directory = request.copy_file().directory();
      job.overwrite = request.copy_file().overwrite();
      job.create_directory = request.copy_file().create_directory();
      return services_->file_copy.Copy(std::move(job), AnswerWithBytes(reply));
    }
    case control::Request::kAddresses:
      return HandleAddresses(request.addresses(), reply);
    case control::Request::kSetMemory:
      return services_->memory.SetTarget(request.set_memory().bytes(), AnswerWithBytes(reply));
    case control::Request::kKeys:
      return answer(request.keys().chord().empty()
                        ? services_->keyboard.Type(request.keys().text())
                        : services_->keyboard.Chord(request.keys().chord()));
    case control::Request::kSwitchService:
      return HandleSwitch(request.switch_service(), answer);
    case control::Request::kConnectSocket:
      if (descriptors.empty()) return answer(InvalidArgument("no socket came with the request"));
      sockets_->ConnectToGuest(request.connect_socket().port(), std::move(descriptors[0]));
      return answer(absl::OkStatus());
    case control::Request::kAcceptSocket:
      if (descriptors.empty()) {
        sockets_->Refuse(request.accept_socket().wanted());
      } else {
        sockets_->Accept(request.accept_socket().wanted(), std::move(descriptors[0]));
      }
      return answer(absl::OkStatus());
    default:
      return answer(InvalidArgument("a request that a partition does not know"));
  }
}

void Machine::HandleAddDisk(const control::Disk& disk, std::vector<UniqueFd> fds,
                            const Replier& reply) {
  const auto answer = AnswerWithStatus(reply);
  if (fds.empty()) return answer(InvalidArgument("no disk came with the request"));
  if (devices_.size() >= kMaxDevices) return answer(ResourceExhausted("too many devices"));
  auto device = std::make_unique<Device>();
  device->position = FreePosition(kFirstAddedDisk);
  device->id = "disk" + std::to_string(next_disk_);
  device->disk = NewController(device->position, device->id + ".");
  absl::Status status = AddDiskTo(*device->disk, disk, std::move(fds[0]), UniqueFd());
  if (status.ok()) status = OfferDevice(*device);
  if (!status.ok()) return answer(status);
  ++next_disk_;
  control::Reply message;
  AddText(message, "id", device->id);
  devices_.push_back(std::move(device));
  reply(std::move(message));
}

void Machine::HandleAddAdapter(const control::Adapter& adapter, std::vector<UniqueFd> fds,
                               const Replier& reply) {
  const auto answer = AnswerWithStatus(reply);
  if (devices_.size() >= kMaxDevices) return answer(ResourceExhausted("too many devices"));
  control::Adapter described = adapter;
  if (described.mac().size() != 6) {
    // As `partita run` derives them, behind those that it has given out.
    described.set_mac(DerivedMac(start_.partition_id(), next_adapter_));
  }
  absl::Status status = AddAdapter(described, std::move(fds));
  if (status.ok()) status = OfferDevice(*devices_.back());
  if (!status.ok()) return answer(status);
  control::Reply message;
  AddText(message, "id", devices_.back()->id);
  AddText(message, "mac", MacText(described.mac()));
  reply(std::move(message));
}

// `answer`, once: with what it is given, or with `late` after half a minute.
Machine::Answer Machine::WithPatience(const Answer& answer, const std::string& late) {
  auto answered = std::make_shared<bool>(false);
  const auto once = [answered, answer](const absl::Status& status) {
    if (!std::exchange(*answered, true)) answer(status);
  };
  constexpr uint32_t kPatienceMs = 30'000;
  loop_.After(kPatienceMs, [once, late] { once(absl::DeadlineExceededError(AbslView(late))); });
  return once;
}

void Machine::HandleRemove(const std::string& id, const Answer& answer) {
  Device* device = FindDevice(id);
  if (device == nullptr) {
    return answer(InvalidArgument("there is no device '" + id + "' that can be removed"));
  }
  device->leaving = true;
  const auto once = WithPatience(answer, "the guest has not let go of the device yet");
  if (device->disk != nullptr) device->disk->BeginRemoval();
  Rescind(device, once);
}

// Once the guest has let go of what lies behind the device.
void Machine::Rescind(Device* device, const Answer& once) {
  constexpr uint32_t kLookMs = 200;
  if (device->disk != nullptr && !device->disk->Removable()) {
    return loop_.After(kLookMs, [this, device, once, alive = std::weak_ptr<bool>(incarnation_)] {
      if (!alive.expired()) Rescind(device, once);
    });
  }
  vmbus_->RemoveDevice(device->relid, [this, device, once] {
    const auto gone = [this, device, once](const absl::Status& status) {
      NoteSync(status);
      device->DescribeTo(retired_);
      std::erase_if(devices_, [&](const auto& d) { return d.get() == device; });
      once(status);
    };
    if (device->disk == nullptr) return gone(absl::OkStatus());
    SyncDisks({device->disk.get()}, gone);
  });
}

// Off: the offer is taken back. On: made again, once the guest has let go of the last one. What was
// asked for holds for the guest's next life too.
void Machine::HandleSwitch(const control::SwitchService& request, const Answer& answer) {
  for (auto& [service, state] : services_->offered) {
    if (service->name() != request.name()) continue;
    if (request.on()) {
      services_off_.erase(request.name());
    } else {
      services_off_.insert(request.name());
    }
    if (state.leaving) {
      return answer(Unavailable("the guest has not let go of the service yet"));
    }
    if (request.on() == (state.relid != 0)) return answer(absl::OkStatus());
    if (request.on()) return answer(OfferService(*service));
    state.leaving = true;
    const auto once = WithPatience(answer, "the guest has not let go of the service yet");
    vmbus_->RemoveDevice(state.relid, [this, service = service, once] {
      services_->offered[service] = {};
      once(absl::OkStatus());
    });
    return;
  }
  answer(InvalidArgument("there is no service '" + request.name() + "'"));
}

void Machine::HandleAddresses(const control::Addresses& request, const Replier& reply) {
  const auto answer = AnswerWithStatus(reply);
  const Device* device = request.id().empty() ? nullptr : FindDevice(request.id());
  if (!request.id().empty() && (device == nullptr || device->adapter == nullptr)) {
    return answer(InvalidArgument("there is no adapter '" + request.id() + "'"));
  }
  if (request.set()) {
    if (device == nullptr) return answer(InvalidArgument("an adapter has to be named"));
    return services_->key_values.SetAddresses(InstanceText(*device->adapter),
                                              {.dhcp = request.dhcp(),
                                               .addresses = request.addresses(),
                                               .subnets = request.subnets(),
                                               .gateways = request.gateways(),
                                               .dns = request.dns()},
                                              answer);
  }
  std::vector<std::string> ids;
  for (const auto& d : devices_) {
    if (d->adapter != nullptr && (device == nullptr || d.get() == device)) ids.push_back(d->id);
  }
  ListAddresses(std::move(ids), {}, reply);
}

void Machine::ListAddresses(std::vector<std::string> ids, control::Reply so_far,
                            const Replier& reply) {
  const Device* device = nullptr;
  while (!ids.empty() && device == nullptr) {
    device = FindDevice(ids.front());
    ids.erase(ids.begin());
  }
  if (device == nullptr) return reply(std::move(so_far));
  std::string text = MacOf(*device->adapter);
  // The daemon compares capital letters.
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  services_->key_values.Addresses(text, [this, id = device->id, ids = std::move(ids),
                                         so_far = std::move(so_far), reply](auto info) mutable {
    if (!info.ok()) return AnswerWithStatus(reply)(info.status());
    AddText(so_far, id + ".addresses", info->addresses);
    AddText(so_far, id + ".subnets", info->subnets);
    AddText(so_far, id + ".gateways", info->gateways);
    AddText(so_far, id + ".dns", info->dns);
    AddText(so_far, id + ".dhcp", info->dhcp ? "yes" : "no");
    ListAddresses(std::move(ids), std::move(so_far), reply);
  });
}

integration::DynamicMemory::Host Machine::MemoryHost() {
  integration::DynamicMemory::Host host;
  host.start_pages = ram_->size() >> kPageShift;
  host.max_pages = std::max(start_.memory_bytes(), start_.maximum_memory_bytes()) >> kPageShift;
  for (const GuestMemory::Region& region : ram_->memory().regions()) {
    if (region.added_later) host.add_gpa = region.gpa;
  }
  // Nothing that the host reaches by an address of the guest may go while it does.
  host.find_usable =
      [this](std::function<void(const integration::DynamicMemory::Host::Usable&)> found) {
        auto census = std::make_shared<vmbus::PageCensus>(
            loop_, [this, alive = std::weak_ptr<bool>(incarnation_),
                    found = std::move(found)](const std::vector<uint64_t>& in_flight) {
              if (alive.expired()) return;
              const std::vector<uint64_t> shared = vmbus_->machine().SharedPages();
              found([&](uint64_t pfn) {
                return partition_->memory().Page(pfn) != nullptr && !synic_->UsesPage(pfn) &&
                       !std::binary_search(shared.begin(), shared.end(), pfn) &&
                       !std::binary_search(in_flight.begin(), in_flight.end(), pfn);
              });
            });
        if (storage_ != nullptr) storage_->CountPages(census);
        for (const auto& device : devices_) device->channel_device().CountPages(census);
      };
  host.discard = [this](uint64_t pfn, uint64_t count) { return ram_->Discard(pfn, count); };
  host.add = [this](uint64_t gpa, uint64_t bytes) { return partition_->AddMemory(gpa, bytes); };
  return host;
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
          waiting_for_space_ > 0 ? "Paused (the host's disk is full)"
          : paused_              ? "Paused"
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
    (*reply.mutable_numbers())["service." + service->name()] = service->ready() ? 1 : 0;
  }
  (*reply.mutable_numbers())["service.dynamic memory"] = services_->memory.ready() ? 1 : 0;
  (*reply.mutable_numbers())["service.keyboard"] = services_->keyboard.ready() ? 1 : 0;
  (*reply.mutable_numbers())["memory_assigned_bytes"] = services_->memory.assigned_bytes();
  for (const auto& device : devices_) {
    const std::string what =
        device->disk != nullptr ? "disk" : "adapter " + MacOf(*device->adapter);
    AddText(reply, device->id, device->leaving ? what + ", leaving" : what);
  }
  if (services_->snapshot.frozen()) AddText(reply, "file systems", "frozen");
}

void Machine::DescribeIncarnation(StatSink& sink) const {
  if (partition_ != nullptr) partition_->DescribeTo(sink);
  if (synic_ != nullptr) synic_->DescribeTo(sink);
  if (vmbus_ != nullptr) vmbus_->DescribeTo(sink);
  if (services_ != nullptr) {
    for (integration::IntegrationService* service : services_->all()) service->DescribeTo(sink);
    services_->memory.DescribeTo(sink);
    services_->keyboard.DescribeTo(sink);
  }
}

void Machine::DescribeTo(StatSink& sink) const {
  for (const auto& [name, value] : retired_.values()) sink.Add(name, value);
  DescribeIncarnation(sink);
  if (storage_ != nullptr) storage_->DescribeTo(sink);
  for (const auto& device : devices_) device->DescribeTo(sink);
  if (sockets_ != nullptr) sockets_->DescribeTo(sink);
  sink.Add("machine.resets", reset_count_);
  sink.Add("machine.first_entry_us", first_entry_us_);
  if (ram_ != nullptr) sink.Add("memory.allocated_bytes", ram_->AllocatedBytes());
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) == 0) {
    sink.Add("process.peak_rss_bytes", static_cast<uint64_t>(usage.ru_maxrss) << 10);
  }
}

}  // namespace partita
