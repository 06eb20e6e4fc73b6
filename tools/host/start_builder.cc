#include "tools/host/start_builder.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "partition/kvm/kvm.h"
#include "tools/control/identity.h"
#include "tools/host/device_messages.h"
#include "tools/host/host_facts.h"
#include "tools/host/kernel_image.h"

namespace partita {
namespace {

using control::PartitionDefinition;

absl::StatusOr<UniqueFd> OpenFile(const std::string& path, const char* what) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return SystemError(std::string(what) + " " + path);
  struct stat info {};
  if (fstat(fd.get(), &info) == 0 && S_ISDIR(info.st_mode)) {
    return InvalidArgument(std::string(what) + " " + path + " is a directory");
  }
  return fd;
}

absl::StatusOr<control::SynicBackend> ChooseSynic(PartitionDefinition::Synic wanted, int kvm_fd) {
  const KvmCapabilities caps = ProbeKvm(kvm_fd);
  if (wanted == PartitionDefinition::KERNEL && !caps.KernelSynic()) {
    return FailedPrecondition(
        "--synic=kernel: this host's KVM has no Hyper-V emulation (see `partita host`)");
  }
  if (wanted != PartitionDefinition::KERNEL && !caps.UserSynic() && !caps.KernelSynic()) {
    return FailedPrecondition("this host's KVM can run neither SynIC backend (see `partita host`)");
  }
  const bool kernel = wanted == PartitionDefinition::KERNEL ||
                      (wanted == PartitionDefinition::AUTO && caps.KernelSynic());
  return kernel ? control::SYNIC_KERNEL : control::SYNIC_USER;
}

absl::Status OpenKvm(const PartitionDefinition& definition, StartPackage& out) {
  UniqueFd kvm(open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!kvm.valid()) {
    return SystemError("opening /dev/kvm (is the kvm module loaded, and may you use it?)");
  }
  ASSIGN_OR_RETURN(const control::SynicBackend synic, ChooseSynic(definition.synic(), kvm.get()));
  out.start.set_synic(synic);
  out.start.set_kvm_fd(out.Own(std::move(kvm)));
  return absl::OkStatus();
}

absl::Status OpenKernel(const control::BootDefinition& boot, int given, StartPackage& out) {
  UniqueFd kernel;
  if (given >= 0) {
    kernel = UniqueFd(fcntl(given, F_DUPFD_CLOEXEC, 0));
  } else {
    ASSIGN_OR_RETURN(kernel, OpenFile(boot.kernel(), "kernel"));
  }
  if (boot.unpack_kernel()) {
    ASSIGN_OR_RETURN(kernel, UnpackKernel(kernel.get()));
  }
  out.start.set_kernel_fd(out.Own(std::move(kernel)));
  out.start.set_initrd_fd(-1);
  if (boot.initrd().empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(UniqueFd initrd, OpenFile(boot.initrd(), "initrd"));
  out.start.set_initrd_fd(out.Own(std::move(initrd)));
  return absl::OkStatus();
}

absl::Status AddDisk(const control::DiskDefinition& disk, const std::string& key,
                     StartPackage& out) {
  ASSIGN_OR_RETURN(UniqueFd fd, OpenDisk(disk));
  control::Disk* entry = out.start.add_disks();
  entry->set_fd(out.Own(std::move(fd)));
  FillDisk(disk, key, *entry);
  if (disk.record().empty()) return absl::OkStatus();
  UniqueFd record(
      open(disk.record().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600));
  if (!record.valid()) return SystemError("record " + disk.record());
  entry->set_record_fd(out.Own(std::move(record)));
  return absl::OkStatus();
}

absl::Status AddAdapter(const control::AdapterDefinition& net, uint32_t cpus, StartPackage& out) {
  std::string mac = net.mac();
  if (mac.empty()) {
    mac = DerivedMac(out.start.partition_id(), static_cast<size_t>(out.start.adapters_size()));
  }
  for (const control::Adapter& other : out.start.adapters()) {
    if (other.mac() == mac) {
      return InvalidArgument("the address " + MacText(mac) + " is used by two adapters");
    }
  }
  uint32_t queues = net.queues() != 0 ? std::min(net.queues(), cpus) : cpus;
  ASSIGN_OR_RETURN(std::vector<UniqueFd> fds, OpenNet(net, &queues));
  control::Adapter* adapter = out.start.add_adapters();
  FillAdapter(net, queues, *adapter);
  for (UniqueFd& fd : fds) adapter->add_fds(out.Own(std::move(fd)));
  adapter->set_mac(mac);
  return absl::OkStatus();
}

void CopySettings(const PartitionDefinition& d, const std::string& identity,
                  control::Start& start) {
  start.set_name(d.name());
  start.set_partition_id(identity);
  start.set_memory_bytes(d.memory().startup_bytes());
  start.set_maximum_memory_bytes(d.memory().maximum_bytes());
  start.set_pages(static_cast<control::Pages>(d.memory().pages()));
  start.set_cpus(d.processors().count());
  for (const int cpu : d.processors().affinity()) start.add_affinity(cpu);
  start.set_command_line(d.boot().command_line());
  start.set_synthetic_timers(d.tuning().synthetic_timers());
  start.set_vmbus_version(d.tuning().vmbus_version());
  start.set_queues(d.tuning().storage_queues());
  start.set_on_reset(d.tuning().exit_on_reset() ? control::RESET_EXIT : control::RESET_RESTART);
  start.set_asset_tag(d.asset_tag());
  start.set_reference_tsc(HostClockIsTsc());
  start.set_eoi_assist(!HostVirtualizesApic());
}

}  // namespace

absl::StatusOr<StartPackage> OpenPartition(const PartitionDefinition& definition,
                                           const StartSources& sources) {
  constexpr int kMaxDisks = 64, kMaxAdapters = 8;
  if (definition.disks_size() > kMaxDisks) {
    return InvalidArgument("a controller has at most 64 disks");
  }
  if (definition.adapters_size() > kMaxAdapters) {
    return InvalidArgument("a partition has at most 8 network adapters");
  }
  StartPackage out;
  CopySettings(definition, sources.identity, out.start);
  out.start.set_kvm_fd(-1);
  if (!sources.without_kvm) RETURN_IF_ERROR(OpenKvm(definition, out));
  RETURN_IF_ERROR(OpenKernel(definition.boot(), sources.kernel_fd, out));
  for (const control::DiskDefinition& disk : definition.disks()) {
    RETURN_IF_ERROR(AddDisk(disk, sources.disk_key, out));
  }
  for (const control::AdapterDefinition& adapter : definition.adapters()) {
    RETURN_IF_ERROR(AddAdapter(adapter, definition.processors().count(), out));
  }
  return out;
}

}  // namespace partita
