// `partita bench network`: frames between the enlightened guest and a TAP in a network namespace of
// its own, then the same frames between that TAP and a program that does only the worker's host
// half.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "base/counters.h"
#include "base/io_ring.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "tools/control/channel.h"
#include "tools/host/net_option.h"
#include "tools/partita/bench_command.h"
#include "tools/partita/guest_image.h"
#include "tools/partita/guest_result.h"
#include "tools/partita/host_load.h"
#include "tools/partita/run_command.h"
#include "vsp/network/net_backend.h"

namespace partita {
namespace {

constexpr char kTap[] = "bench0";
constexpr uint16_t kEthertype = 0x88B5;  // for experiments (IEEE 802)
constexpr size_t kBurst = 64;
constexpr unsigned kPauseUs = 50;

absl::Status WriteFile(const char* path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  return file ? absl::OkStatus() : SystemError(std::string("writing ") + path);
}

// A namespace without anything but what is made here; unprivileged users get one of theirs.
absl::Status EnterNamespace() {
  if (unshare(CLONE_NEWNET) == 0) return absl::OkStatus();
  const uid_t uid = geteuid();
  const gid_t gid = getegid();
  if (unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) return SystemError("a network namespace");
  RETURN_IF_ERROR(WriteFile("/proc/self/setgroups", "deny"));
  RETURN_IF_ERROR(
      WriteFile("/proc/self/uid_map", std::to_string(uid) + " " + std::to_string(uid) + " 1"));
  return WriteFile("/proc/self/gid_map", std::to_string(gid) + " " + std::to_string(gid) + " 1");
}

// A TAP that stays while it has no user, so that both contenders get the same one.
absl::Status MakeTap() {
  const UniqueFd fd(open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  if (!fd.valid()) return SystemError("opening /dev/net/tun");
  ifreq request{};
  memcpy(request.ifr_name, kTap, sizeof(kTap));
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (ioctl(fd.get(), TUNSETIFF, &request) != 0 || ioctl(fd.get(), TUNSETPERSIST, 1) != 0) {
    return SystemError("making a TAP");
  }
  // Or the stack would answer with traffic of its own.
  static_cast<void>(
      WriteFile((std::string("/proc/sys/net/ipv6/conf/") + kTap + "/disable_ipv6").c_str(), "1")
          .ok());
  const UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (ioctl(socket.get(), SIOCGIFFLAGS, &request) != 0) return SystemError("a TAP");
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) return SystemError("a TAP");
  return absl::OkStatus();
}

std::vector<std::byte> MakeFrame(uint32_t size) {
  std::vector<std::byte> frame(size);
  memset(frame.data(), 0xFF, 6);
  const uint8_t mac[] = {0, 0x15, 0x5D, 0xFF, 0xFF, 0xFE};
  memcpy(frame.data() + 6, mac, sizeof(mac));
  const uint16_t type = htons(kEthertype);
  memcpy(frame.data() + 12, &type, sizeof(type));
  return frame;
}

// What stands behind the TAP: sends without a pause, or answers each frame with the same frame.
class Generator {
 public:
  Generator(const NetworkBenchOptions& options) : options_(options) {}
  ~Generator() { Stop(); }
  Generator(const Generator&) = delete;
  Generator& operator=(const Generator&) = delete;

  absl::Status Start() {
    const bool echo = options_.direction == "latency";
    if (!echo && options_.direction != "receive") return absl::OkStatus();
    socket_ = UniqueFd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, echo ? htons(kEthertype) : 0));
    if (!socket_.valid()) return SystemError("a packet socket");
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = echo ? htons(kEthertype) : 0;
    address.sll_ifindex = static_cast<int>(if_nametoindex(kTap));
    if (bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
      return SystemError("a packet socket");
    }
    const int bypass = 1;
    setsockopt(socket_.get(), SOL_PACKET, PACKET_QDISC_BYPASS, &bypass, sizeof(bypass));
    // The default holds no more than some 80 frames, fewer than the TAP's queue.
    const int buffer = 8 << 20;
    setsockopt(socket_.get(), SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof(buffer));
    const timeval timeout{.tv_sec = 0, .tv_usec = 100000};
    setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    thread_ = std::thread([this, echo] { echo ? Echo() : Send(); });
    return absl::OkStatus();
  }
  void Stop() {
    stop_.store(true);
    if (thread_.joinable()) thread_.join();
  }

 private:
  void Send() {
    std::vector<std::byte> frame = MakeFrame(options_.frame_size);
    iovec part{frame.data(), frame.size()};
    prctl(PR_SET_TIMERSLACK, 1000UL);
    std::array<mmsghdr, kBurst> messages{};
    for (mmsghdr& m : messages) {
      m.msg_hdr.msg_iov = &part;
      m.msg_hdr.msg_iovlen = 1;
    }
    while (!stop_.load(std::memory_order_relaxed)) {
      // ENOBUFS: the TAP's queue of 1000 frames is full, and each further frame would be made only
      // to be dropped. Its reader needs the CPU more; it is far from through when this goes on.
      if (sendmmsg(socket_.get(), messages.data(), kBurst, 0) < static_cast<int>(kBurst)) {
        usleep(kPauseUs);
      }
    }
  }
  void Echo() {
    std::array<std::byte, 2048> frame{};
    while (!stop_.load(std::memory_order_relaxed)) {
      sockaddr_ll from{};
      socklen_t size = sizeof(from);
      const ssize_t got = recvfrom(socket_.get(), frame.data(), frame.size(), 0,
                                   reinterpret_cast<sockaddr*>(&from), &size);
      if (got > 0 && from.sll_pkttype != PACKET_OUTGOING) {
        static_cast<void>(send(socket_.get(), frame.data(), static_cast<size_t>(got), 0) > 0);
      }
    }
  }
  const NetworkBenchOptions& options_;
  UniqueFd socket_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

// The host half: the queue that the worker uses, from and to a ring of memory, on one thread.
class HostHalf final : public network::FrameOwner {
 public:
  explicit HostHalf(const NetworkBenchOptions& options) : options_(options) {}

  absl::StatusOr<LoadResult> Run() {
    uint32_t queues = 1;
    control::AdapterDefinition tap;
    tap.set_kind(control::AdapterDefinition::TAP);
    tap.set_target(kTap);
    ASSIGN_OR_RETURN(std::vector<UniqueFd> fds, OpenNet(tap, &queues));
    ASSIGN_OR_RETURN(const auto backend, network::MakeTapBackend(std::move(fds)));
    const std::vector<int> files = backend->files(0);
    const std::vector<uint8_t> opcodes = backend->opcodes();
    ASSIGN_OR_RETURN(
        ring_, IoRing::Create({.entries = 256, .files = files, .opcodes = opcodes, .links = true}));
    ASSIGN_OR_RETURN(queue_, backend->OpenQueue(*this, *ring_, 0, 0));
    RETURN_IF_ERROR(ring_->Enable());
    ASSIGN_OR_RETURN(memory_, Mapping::Map(2 * kBurst * kFrameRoom, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS, -1));
    const std::vector<std::byte> frame = MakeFrame(options_.frame_size);
    for (size_t i = 0; i < kBurst; ++i) {
      std::byte* at = memory_.data() + i * kFrameRoom;
      memcpy(at, frame.data(), frame.size());
      frames_[i].iovecs = {{}, {at, frame.size()}};
      frames_[i].length = options_.frame_size;
      free_frames_.push_back(&frames_[i]);
      slots_[i].iovecs = {{}, {memory_.data() + (kBurst + i) * kFrameRoom, kFrameRoom}};
      slots_[i].capacity = kFrameRoom;
      free_slots_.push_back(&slots_[i]);
    }
    const bool sends = options_.direction == "send", echo = options_.direction == "latency";
    queue_->PostReceives();
    const double cpu = CpuSeconds(RUSAGE_THREAD);
    if (options_.direction == "receive") {
      while (received_ == 0) Turn(1);
    }
    const uint64_t start = MonotonicNs(), before = ring_->system_calls();
    const uint64_t deadline = start + uint64_t{options_.seconds} * 1'000'000'000;
    const uint64_t first = received_;
    uint64_t count = 0;
    while (MonotonicNs() < deadline) {
      if (sends) {
        while (!free_frames_.empty()) SendOne();
        Turn(0);
        count = sent_;
      } else if (echo) {
        const uint64_t asked = MonotonicNs(), seen = received_;
        SendOne();
        while (received_ == seen) Turn(1);
        latency_.Record(MonotonicNs() - asked);
        ++count;
      } else {
        Turn(1);
        count = received_ - first;
      }
    }
    LoadResult result;
    result.nanoseconds = MonotonicNs() - start;
    result.ios = count;
    result.system_calls = ring_->system_calls() - before;
    result.cpu_seconds = CpuSeconds(RUSAGE_THREAD) - cpu;
    result.p50_ns = latency_.Quantile(0.5);
    result.p99_ns = latency_.Quantile(0.99);
    result.p999_ns = latency_.Quantile(0.999);
    queue_->Cancel();
    while (!queue_->Idle()) Turn(1);
    return result;
  }

  void OnSent(network::TransmitFrame& frame, bool ok) override {
    if (ok) ++sent_;
    free_frames_.push_back(&frame);
  }
  network::ReceiveSlot* TakeSlot() override {
    if (free_slots_.empty()) return nullptr;
    network::ReceiveSlot* slot = free_slots_.back();
    free_slots_.pop_back();
    return slot;
  }
  void OnReceived(network::ReceiveSlot& slot, uint32_t length) override {
    if (length > 0) ++received_;
    free_slots_.push_back(&slot);
  }

 private:
  static constexpr size_t kFrameRoom = 4096;
  void SendOne() {
    network::TransmitFrame* frame = free_frames_.back();
    free_frames_.pop_back();
    frame->header = {};
    queue_->Send(*frame);
  }
  void Turn(unsigned wait) {
    queue_->PostReceives();
    ring_->Submit(wait, 100'000'000);
    ring_->Reap();
  }
  const NetworkBenchOptions& options_;
  std::unique_ptr<IoRing> ring_;
  std::unique_ptr<network::NetQueue> queue_;
  Mapping memory_;
  std::array<network::TransmitFrame, kBurst> frames_;
  std::array<network::ReceiveSlot, kBurst> slots_;
  std::vector<network::TransmitFrame*> free_frames_;
  std::vector<network::ReceiveSlot*> free_slots_;
  uint64_t sent_ = 0, received_ = 0;
  Histogram latency_;
};

absl::StatusOr<LoadResult> RunInPartition(const NetworkBenchOptions& o,
                                          std::map<std::string, uint64_t>* stats) {
  ASSIGN_OR_RETURN(const UniqueFd image, GuestImage());
  RunOptions run;
  run.name = "bench";
  run.memory = "256M";
  run.nets = {std::string("tap=") + kTap};
  run.synic = o.synic;
  run.quiet = true;
  run.command_line = "job=network dir=" + (o.direction == "latency" ? "echo" : o.direction) +
                     " size=" + std::to_string(o.frame_size) +
                     " seconds=" + std::to_string(o.seconds) + " mode=" + o.mode;
  return RunGuest(run, image.get(), stats);
}

double Gigabits(const LoadResult& r, uint32_t size) { return r.Iops() * size * 8 / 1e9; }

nlohmann::ordered_json Describe(const LoadResult& r, uint32_t size) {
  return {{"packets_per_s", r.Iops()},
          {"gbit_per_s", Gigabits(r, size)},
          {"packets", r.ios},
          {"cpu_seconds_per_million", r.cpu_seconds * 1e6 / static_cast<double>(r.ios)}};
}

absl::Status Bench(const NetworkBenchOptions& o) {
  RETURN_IF_ERROR(EnterNamespace());
  RETURN_IF_ERROR(MakeTap());
  std::map<std::string, uint64_t> stats;
  LoadResult partition, host;
  {
    Generator generator(o);
    RETURN_IF_ERROR(generator.Start());
    ASSIGN_OR_RETURN(partition, RunInPartition(o, &stats));
  }
  {
    Generator generator(o);
    RETURN_IF_ERROR(generator.Start());
    ASSIGN_OR_RETURN(host, HostHalf(o).Run());
  }
  if (partition.ios == 0 || host.ios == 0) return Internal("no frame went through");
  const auto packets = static_cast<double>(partition.ios);
  const double calls = static_cast<double>(stats["network.system_calls"]) / packets;
  const double exits = static_cast<double>(stats["exits.total"]) / packets;
  const double interrupts = static_cast<double>(partition.interrupts) / packets;
  const double doorbells = static_cast<double>(partition.doorbells) / packets;
  if (o.json) {
    nlohmann::ordered_json out;
    out["direction"] = o.direction;
    out["frame_size"] = o.frame_size;
    out["mode"] = o.mode;
    out["synic"] = stats.contains("synic.resamples") ? "kernel" : "user";
    out["partition"] = Describe(partition, o.frame_size);
    out["host"] = Describe(host, o.frame_size);
    out["ratio"] = partition.Iops() / host.Iops();
    out["system_calls_per_packet"] = calls;
    out["exits_per_packet"] = exits;
    out["interrupts_per_packet"] = interrupts;
    out["doorbells_per_packet"] = doorbells;
    auto micro = [](uint64_t ns) { return static_cast<double>(ns) / 1e3; };
    out["latency_us"] = {{"p50", micro(partition.p50_ns)},
                         {"p99", micro(partition.p99_ns)},
                         {"p999", micro(partition.p999_ns)}};
    out["host_latency_us"] = {
        {"p50", micro(host.p50_ns)}, {"p99", micro(host.p99_ns)}, {"p999", micro(host.p999_ns)}};
    printf("%s\n", out.dump(2).c_str());
    return absl::OkStatus();
  }
  printf("%s, frames of %u bytes, %s mode, %u s each\n", o.direction.c_str(), o.frame_size,
         o.mode.c_str(), o.seconds);
  for (const auto& [name, r] : {std::pair{"partition", &partition}, {"host", &host}}) {
    printf("  %-10s %10.0f packets/s %7.3f Gbit/s", name, r->Iops(), Gigabits(*r, o.frame_size));
    if (r->p50_ns != 0) {
      printf("   p50 %6.1f  p99 %6.1f  p99.9 %6.1f us", static_cast<double>(r->p50_ns) / 1e3,
             static_cast<double>(r->p99_ns) / 1e3, static_cast<double>(r->p999_ns) / 1e3);
    }
    printf("   %6.2f CPU s/M\n", r->cpu_seconds * 1e6 / static_cast<double>(r->ios));
  }
  printf(
      "  ratio %.3f; per packet in the partition: %.4f system calls, %.4f exits to user space, "
      "%.4f interrupts, %.4f doorbells\n",
      partition.Iops() / host.Iops(), calls, exits, interrupts, doorbells);
  return absl::OkStatus();
}

}  // namespace

int BenchNetwork(const NetworkBenchOptions& options) {
  const absl::Status status = Bench(options);
  if (status.ok()) return 0;
  Log(Message(status));
  return control::kExitStartFailed;
}

}  // namespace partita
