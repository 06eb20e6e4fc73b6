// What one frame of 1,500 bytes costs the adapter's loop each way, without a hypervisor and without
// a wire: the vsc driver at one end, a back end that takes everything or always has a frame at the
// other.
//
// Counters: ns of the loop's own CPU time, system calls and wakes per frame. NETWORK_BENCH_FRAMES:
// frames in one iteration (default 100,000).
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/fakes/hosted_partition.h"
#include "vsc/network_vsc.h"
#include "vsp/network/network_vsp.h"

namespace partita::network {
namespace {

constexpr uint32_t kFrame = 1500;
constexpr MacAddress kAddress = {0, 0x15, 0x5D, 9, 8, 7};

// A wire on which a frame waits for every read, in chains as a TAP's.
class SourceQueue final : public NetQueue {
 public:
  SourceQueue(FrameOwner& owner, IoRing& ring) : owner_(owner), ring_(ring) {
    std::copy(kAddress.begin(), kAddress.end(), frame_.begin());
    frame_[12] = frame_[13] = 0x88;
  }
  void Send(TransmitFrame& frame) override { owner_.OnSent(frame, true); }
  void PostReceives() override {
    if (reads_ != 0 || cancelled_) return;
    for (ReadOp& op : ops_) {
      op.slot = owner_.TakeSlot();
      if (op.slot == nullptr) break;
      op.queue = this;
      io_uring_sqe* sqe = ring_.Prepare(&op);
      if (sqe == nullptr) std::abort();
      sqe->opcode = IORING_OP_NOP;
      ++reads_;
    }
  }
  void Cancel() override { cancelled_ = true; }
  [[nodiscard]] bool Idle() const override { return reads_ == 0; }

 private:
  struct ReadOp final : IoRing::Op {
    void OnComplete(int32_t, uint32_t) override {
      --queue->reads_;
      slot->header = {};
      // The bytes would be the kernel's work: only the headers are there.
      std::memcpy(slot->iovecs[1].iov_base, queue->frame_.data(), queue->frame_.size());
      queue->owner_.OnReceived(*slot, kFrame);
    }
    SourceQueue* queue = nullptr;
    ReceiveSlot* slot = nullptr;
  };
  FrameOwner& owner_;
  IoRing& ring_;
  std::array<uint8_t, 64> frame_{};
  std::array<ReadOp, 32> ops_;
  size_t reads_ = 0;
  bool cancelled_ = false;
};

class SourceBackend final : public NetBackend {
 public:
  [[nodiscard]] const NetProperties& properties() const override { return properties_; }
  [[nodiscard]] std::vector<int> files(uint32_t) const override { return {}; }
  [[nodiscard]] std::vector<uint8_t> opcodes() const override { return {IORING_OP_NOP}; }
  absl::StatusOr<std::unique_ptr<NetQueue>> OpenQueue(FrameOwner& owner, IoRing& ring, uint32_t,
                                                      int) override {
    return std::make_unique<SourceQueue>(owner, ring);
  }

 private:
  NetProperties properties_;
};

// CPU time of the adapter's loops.
uint64_t LoopNs() {
  uint64_t sum = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::ifstream(task.path() / "comm") >> name;
    if (!name.starts_with("net")) continue;
    uint64_t ns = 0;
    std::ifstream(task.path() / "schedstat") >> ns;
    sum += ns;
  }
  return sum;
}

class Bench {
 public:
  explicit Bench(std::unique_ptr<NetBackend> backend)
      : adapter_({.instance = {{5}}, .mac = kAddress, .name = "bench"}, std::move(backend)) {
    adapter_.Connect(partition_.server());
    partition_.OnControl([&] { partition_.server().AddDevice(adapter_); });
    Require(connection_.Connect(vmbus::kVersion5_3, 0));
    Require(connection_.RequestOffers());
    constexpr size_t kPages = 258;
    auto** list = reinterpret_cast<std::byte**>(partition_.Allocate(4096));
    Require(channel_.Open(connection_, transport_, *connection_.Await(vmbus::kNetworkClass, 0),
                          partition_.Allocate(kPages * 4096), kPages, list,
                          {partition_.Allocate(16384), 16384}, 0));
    Require(driver_.Initialize({.receive = {partition_.Allocate(4 << 20), 4 << 20},
                                .send = {partition_.Allocate(1 << 20), 1 << 20},
                                .scratch = partition_.Allocate(4096)}));
  }
  ~Bench() { partition_.Shutdown(); }

  void Send(uint64_t frames) {
    for (uint64_t i = 0; i < frames;) {
      std::byte* at = driver_.Prepare(kFrame);
      if (at != nullptr) {
        if (at[12] != std::byte{0x88}) {  // once for each place: this is not the guest's measure
          std::memset(at, 0, kFrame);
          std::memcpy(at + kAddress.size(), kAddress.data(), kAddress.size());
          at[12] = at[13] = std::byte{0x88};
        }
        ++i;
        continue;
      }
      Flush();
    }
    while (driver_.pending() > 0) Flush();
  }
  void Receive(uint64_t frames) {
    const uint64_t end = received_ + frames;
    while (received_ < end) Drain();
  }
  // What the loop has spent since the last call, per frame.
  void Report(benchmark::State& state, uint64_t frames) {
    const double n = static_cast<double>(frames);
    state.SetItemsProcessed(static_cast<int64_t>(frames));
    state.counters["loop_ns"] = static_cast<double>(LoopNs() - loop_ns_) / n;
    StatSink sink;
    adapter_.DescribeTo(sink);
    state.counters["wakes"] =
        static_cast<double>(sink.values().at("network.loop_wakes") - wakes_) / n;
  }
  void Start() {
    StatSink sink;
    adapter_.DescribeTo(sink);
    wakes_ = sink.values().at("network.loop_wakes");
    loop_ns_ = LoopNs();
  }
  // The loop adds its system calls when it ends.
  uint64_t SystemCalls() {
    partition_.Shutdown();
    StatSink sink;
    adapter_.DescribeTo(sink);
    return sink.values().at("network.system_calls");
  }

 private:
  static void Require(vmbus::client::Result result) {
    if (result != vmbus::client::Result::kOk) std::abort();
  }
  void Flush() {
    while (!driver_.Flush(channel_)) Drain();
    Drain();
  }
  void Drain() {
    bool any = false;
    while (driver_.Poll(channel_, [this](std::byte*, uint32_t) { ++received_; })) any = true;
    channel_.Commit();
    if (!any && !channel_.reader().UnmaskAndCheck() && !transport_.Wait()) std::abort();
  }

  testing_support::HostedPartition partition_;
  NetworkVsp adapter_;
  testing_support::HostedPartition::GuestTransport transport_{partition_};
  vmbus::client::Connection connection_{transport_};
  vmbus::client::Channel channel_;
  vsc::NetworkVsc driver_{connection_, transport_, channel_};
  uint64_t received_ = 0, wakes_ = 0, loop_ns_ = 0;
};

uint64_t Frames() {
  const char* wanted = std::getenv("NETWORK_BENCH_FRAMES");
  return wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : 100'000;
}

void Measure(benchmark::State& state, std::unique_ptr<NetBackend> backend,
             void (Bench::*move)(uint64_t)) {
  Bench bench(std::move(backend));
  const uint64_t each = Frames();
  uint64_t frames = 0;
  bench.Start();
  for (auto _ : state) {
    (bench.*move)(each);
    frames += each;
  }
  bench.Report(state, frames);
  state.counters["calls"] = static_cast<double>(bench.SystemCalls()) / static_cast<double>(frames);
}

void Send(benchmark::State& state) { Measure(state, MakeNullBackend(1), &Bench::Send); }
void Receive(benchmark::State& state) {
  Measure(state, std::make_unique<SourceBackend>(), &Bench::Receive);
}
BENCHMARK(Send)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(Receive)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace partita::network

BENCHMARK_MAIN();
