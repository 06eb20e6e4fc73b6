// The enlightened guest's jobs, chosen by "job=" on the command line. Ring 3.
//   verify  writes a pattern over the first mib= MiB of disk 0 from all VPs, reads it back
//   bench   runs rw= bs= depth= milliseconds= mode= seed= on every VP's own channel
//   network    sends (dir=send), receives (receive) or exchanges (echo) frames of size=
//              bytes for seconds= seconds; dir=verify sends patterns into a loopback
//   memory  touches the first and last MiB of guest RAM
//   hello   reports what it found
//   registers  reports CPUID leaves and synthetic MSRs as they are at the start
//   platform   reports the machine below VMBus
//   collide    resets the machine from one VP while another one crashes
//   hostile    does everything wrong that a guest can do, then shows that the disk still answers
//   flood   asks for channels and buffers without end
// With "autoeoi=1" SINT 2 ends its interrupts by itself, and the guest does not.
#include <atomic>

#include "vsc/guest/flood.h"
#include "vsc/guest/hostile.h"
#include "vsc/guest/platform.h"
#include "vsc/guest/runtime.h"
#include "vsc/network_vsc.h"
#include "vsc/storage_vsc.h"

namespace partita::guest {
namespace {

using vmbus::RingStatus;
using vmbus::client::Channel;
using vmbus::client::Connection;
using vmbus::client::Result;
using vsc::Completion;
using vsc::DiskGeometry;
using vsc::NetworkVsc;
using vsc::StorageVsc;

constexpr size_t kRingPages = 66;  // 128 KiB of data and a control page each way
constexpr size_t kBuffer = 4096;   // one packet
constexpr uint32_t kMaxDepth = 256;
constexpr uint64_t kPublish = 8;  // requests per publication, so that the parent can begin early
constexpr uint64_t kSpinMicroseconds = 50;
constexpr uint64_t kShortSleepMicroseconds = 200;

// Log-linear histogram of TSC ticks: 16 steps per power of two.
class TickHistogram {
 public:
  void Record(uint64_t value) { ++buckets_[Index(value)], ++count_; }
  void Add(const TickHistogram& other) {
    for (size_t i = 0; i < kBuckets; ++i) buckets_[i] += other.buckets_[i];
    count_ += other.count_;
  }
  [[nodiscard]] uint64_t PerMille(uint64_t q) const {  // q of 1000
    uint64_t seen = 0;
    for (size_t i = 0; i < kBuckets; ++i) {
      seen += buckets_[i];
      if (seen * 1000 >= count_ * q && seen > 0) {
        const size_t group = i >> 4;
        return group == 0 ? i : ((16 + (i & 15) + 1) << (group - 1)) - 1;
      }
    }
    return 0;
  }

 private:
  static size_t Index(uint64_t value) {
    if (value < 16) return value;
    const auto width = static_cast<unsigned>(64 - __builtin_clzll(value));
    return (size_t{width - 4} << 4) + ((value >> (width - 5)) & 15);
  }
  static constexpr size_t kBuckets = 61 * 16;
  uint64_t buckets_[kBuckets] = {};
  uint64_t count_ = 0;
};

// Everything one VP works with.
struct Queue {
  uint32_t vp = 0;
  GuestTransport* transport = nullptr;
  Channel channel;
  std::byte* data = nullptr;
  TickHistogram latency;
  uint64_t ios = 0, errors = 0, waits = 0, batches = 0;
  uint64_t spin_ticks = 0;
  uint64_t start = 0, end = 0;
  std::atomic<uint32_t> done = 0;
};

struct Job {
  enum class Kind : uint8_t { kVerify, kBench } kind = Kind::kVerify;
  bool write = false, random = false, poll = false;
  uint32_t block_size = 4096, depth = 32, vps = 1;
  uint64_t milliseconds = 1000, seed = 1, bytes = 0;
};

Job job;
DiskGeometry geometry;
StorageVsc* storage = nullptr;
Queue* queues[kMaxVps];
uint64_t tsc_hz = 0;

// Placement storage: there is no heap with destructors here.
template <typename T, typename... Args>
T* Make(Args&&... args) {
  return new (Allocate(sizeof(T))) T(static_cast<Args&&>(args)...);
}

// Offsets of the benchmark; the host's loop uses the same generator (xorshift64).
struct Offsets {
  uint64_t state, blocks, next = 0;
  bool random;
  uint64_t Next() {
    if (!random) return next++ % blocks;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % blocks;
  }
};

Result OpenQueue(Connection& connection, Queue& queue, uint16_t subchannel,
                 const vmbus::Guid& device = vmbus::kScsiClass) {
  const vmbus::Offer* offer = connection.Await(device, subchannel);
  if (offer == nullptr) return Result::kTimedOut;
  std::byte* ring = Allocate(kRingPages * 4096);
  auto** list = reinterpret_cast<std::byte**>(Allocate(kRingPages * sizeof(std::byte*)));
  return queue.channel.Open(connection, *queues[0]->transport, *offer, ring, kRingPages, list,
                            {Allocate(kBuffer), kBuffer}, queue.vp);
}

// Waits for the channel's next completion. In interrupt mode the VP looks at the ring a little
// longer with the interrupt masked, because going to sleep and being woken costs more than most
// completions take to come, and then halts. The budget grows while sleeps turn out short, and
// shrinks while they are long: an idle VP hardly spins.
void Idle(Queue& queue) {
  if (job.poll) {
    asm volatile("pause");
    return;
  }
  const uint64_t microsecond = tsc_hz / 1000000;
  const uint64_t start = Tsc();
  while (Tsc() - start < queue.spin_ticks) {
    if (queue.channel.reader().Available()) return;
    asm volatile("pause");
  }
  if (queue.channel.reader().UnmaskAndCheck()) return;
  // An event that came before the unmasking is answered by looking again, not by sleeping.
  while (!queue.transport->TakeEvent(queue.channel.relid())) {
    const uint64_t seen = Interrupts(queue.vp);
    if (queue.transport->TakeEvent(queue.channel.relid())) break;
    ++queue.waits;
    WaitForInterrupt(seen);
  }
  queue.channel.reader().MaskInterrupts();
  const bool was_short = Tsc() - start < kShortSleepMicroseconds * microsecond;
  const uint64_t longest = kSpinMicroseconds * microsecond;
  const uint64_t grown = queue.spin_ticks * 2 + microsecond;
  queue.spin_ticks = !was_short ? queue.spin_ticks / 2 : grown < longest ? grown : longest;
}

void Bench(Queue& queue) {
  const uint64_t blocks_per_io = job.block_size / geometry.block_size;
  const uint64_t slots = geometry.blocks / blocks_per_io;
  Offsets offsets{job.seed + queue.vp * 0x9E3779B97F4A7C15ull, slots, 0, job.random};
  uint64_t started[kMaxDepth];
  queue.channel.reader().MaskInterrupts();
  auto submit = [&](uint32_t slot, uint64_t now) {
    started[slot] = now;
    if (storage->SubmitReadWrite(queue.channel, 0, job.write, offsets.Next() * blocks_per_io,
                                 static_cast<uint32_t>(blocks_per_io),
                                 queue.data + size_t{slot} * job.block_size, job.block_size,
                                 slot + 1) != Result::kOk) {
      Fail("the ring is full");
    }
  };
  queue.start = Tsc();
  const uint64_t deadline = queue.start + job.milliseconds * (tsc_hz / 1000);
  for (uint32_t i = 0; i < job.depth; ++i) submit(i, queue.start);
  queue.channel.Commit();
  uint32_t in_flight = job.depth;
  while (in_flight > 0) {
    Completion completion;
    const RingStatus status = storage->Poll(queue.channel, &completion);
    if (status == RingStatus::kEmpty) {
      queue.channel.Commit();
      Idle(queue);
      continue;
    }
    if (status != RingStatus::kOk || completion.tag == 0 || completion.tag > job.depth) {
      Fail("the incoming ring is broken");
    }
    const auto slot = static_cast<uint32_t>(completion.tag - 1);
    const uint64_t now = Tsc();
    queue.latency.Record(now - started[slot]);
    ++queue.ios;
    if (!completion.ok || completion.transferred != job.block_size) ++queue.errors;
    if (now < deadline) {
      submit(slot, now);
      if (queue.ios % kPublish == 0) queue.channel.Commit();
    } else {
      --in_flight;
    }
  }
  queue.channel.Commit();
  queue.end = Tsc();
}

uint64_t Pattern(uint64_t word, uint64_t seed) {
  return (word + seed) * 0x9E3779B97F4A7C15ull ^ (word >> 7);
}

// Each VP writes and reads its own stripe of the area, 64 KiB at a time, several at once.
void Verify(Queue& queue) {
  constexpr uint32_t kChunk = 64 << 10, kDepth = 8;
  const uint64_t chunks = job.bytes / kChunk;
  const uint64_t first = chunks * queue.vp / job.vps, last = chunks * (queue.vp + 1) / job.vps;
  const uint32_t blocks = kChunk / geometry.block_size;
  queue.channel.reader().MaskInterrupts();
  queue.start = Tsc();
  for (const bool write : {true, false}) {
    uint64_t next = first;
    uint64_t chunk_of[kDepth];
    uint32_t in_flight = 0;
    auto submit = [&](uint32_t slot) {
      std::byte* data = queue.data + size_t{slot} * kChunk;
      auto* words = reinterpret_cast<uint64_t*>(data);
      chunk_of[slot] = next;
      if (write) {
        for (uint64_t i = 0; i < kChunk / 8; ++i)
          words[i] = Pattern(next * (kChunk / 8) + i, job.seed);
      } else {
        memset(data, 0xEE, kChunk);
      }
      if (storage->SubmitReadWrite(queue.channel, 0, write, next * blocks, blocks, data, kChunk,
                                   slot + 1) != Result::kOk) {
        Fail("the ring is full");
      }
      ++next, ++in_flight;
    };
    for (uint32_t i = 0; i < kDepth && next < last; ++i) submit(i);
    queue.channel.Commit();
    while (in_flight > 0) {
      Completion completion;
      const RingStatus status = storage->Poll(queue.channel, &completion);
      if (status == RingStatus::kEmpty) {
        queue.channel.Commit();
        Idle(queue);
        continue;
      }
      if (status != RingStatus::kOk || completion.tag == 0 || completion.tag > kDepth) {
        Fail("the incoming ring is broken");
      }
      --in_flight, ++queue.ios;
      const auto slot = static_cast<uint32_t>(completion.tag - 1);
      if (!completion.ok || completion.transferred != kChunk) ++queue.errors;
      if (!write) {
        const auto* words = reinterpret_cast<const uint64_t*>(queue.data + size_t{slot} * kChunk);
        for (uint64_t i = 0; i < kChunk / 8; ++i) {
          if (words[i] != Pattern(chunk_of[slot] * (kChunk / 8) + i, job.seed)) {
            ++queue.errors;
            break;
          }
        }
      }
      if (next < last) submit(slot);
    }
    queue.channel.Commit();
  }
  queue.end = Tsc();
}

void RunQueue(uint64_t index) {
  Queue& queue = *queues[index];
  if (job.kind == Job::Kind::kBench) {
    Bench(queue);
  } else {
    Verify(queue);
  }
  queue.done.store(1);
  if (index == 0) return;
  // Its work is done; the VP sleeps for good.
  while (true) WaitForInterrupt(Interrupts(static_cast<uint32_t>(index)));
}

void Report() {
  TickHistogram* latency = Make<TickHistogram>();
  uint64_t ios = 0, errors = 0, waits = 0, doorbells = 0, interrupts = 0, longest = 0;
  for (uint32_t i = 0; i < job.vps; ++i) {
    Queue& queue = *queues[i];
    latency->Add(queue.latency);
    ios += queue.ios, errors += queue.errors, waits += queue.waits;
    doorbells += queue.channel.doorbells();
    interrupts += Interrupts(i);
    const uint64_t ticks = queue.end - queue.start;
    if (ticks > longest) longest = ticks;
  }
  auto nanoseconds = [](uint64_t ticks) { return ticks * 1000 / (tsc_hz / 1000000); };
  JsonLine("result")
      .Number("ios", ios)
      .Number("errors", errors)
      .Number("ns", nanoseconds(longest))
      .Number("doorbells", doorbells)
      .Number("interrupts", interrupts)
      .Number("waits", waits)
      .Number("p50_ns", nanoseconds(latency->PerMille(500)))
      .Number("p99_ns", nanoseconds(latency->PerMille(990)))
      .Number("p999_ns", nanoseconds(latency->PerMille(999)));
}

void ParseJob() {
  job.kind = Argument("job") == "bench" ? Job::Kind::kBench : Job::Kind::kVerify;
  const std::string_view rw = Argument("rw");
  job.write = rw == "randwrite" || rw == "write";
  job.random = rw.empty() || rw == "randread" || rw == "randwrite";
  job.poll = Argument("mode") == "poll";
  job.block_size = static_cast<uint32_t>(NumberArgument("bs", 4096));
  job.depth = static_cast<uint32_t>(NumberArgument("depth", 32));
  job.milliseconds = NumberArgument("milliseconds", NumberArgument("seconds", 1) * 1000);
  job.seed = NumberArgument("seed", 1);
  job.bytes = NumberArgument("mib", 64) << 20;
  job.vps = static_cast<uint32_t>(NumberArgument("vps", 1));
  if (job.depth == 0 || job.depth > kMaxDepth || job.vps == 0 || job.vps > kMaxVps) {
    Fail("depth or vps out of range");
  }
}

void TouchMemory() {
  const uint64_t end =
      system_info.high_memory_end != 0 ? system_info.high_memory_end : system_info.memory_end;
  constexpr uint64_t kMib = 1 << 20;
  for (uint64_t at = end - kMib; at < end; at += 4096) {
    auto* word = reinterpret_cast<volatile uint64_t*>(at);
    *word = at;
    if (*word != at) Fail("memory does not hold what was written");
  }
  JsonLine("memory").Number("end", end);
}

// CPUID, and what ring 0 found in the synthetic MSRs before it wrote any.
void ReportRegisters() {
  for (uint32_t leaf = hv::kCpuidVendor; leaf <= hv::kCpuidHardware + 1; ++leaf) {
    uint32_t r[4] = {};
    Call(kSysCpuid, leaf, reinterpret_cast<uintptr_t>(r));
    JsonLine line("cpuid");
    line.Number("leaf", leaf).Number("eax", r[0]).Number("ebx", r[1]);
    line.Number("ecx", r[2]).Number("edx", r[3]);
  }
  for (const ResetValue& reset : system_info.reset_values) {
    JsonLine("msr").Number("number", reset.msr).Number("value", reset.value);
  }
}

// --- network ---

constexpr uint32_t kEthernetHeader = 14;
constexpr uint8_t kLocalExperiment[] = {0x88, 0xB5};  // ethertype for experiments (IEEE 802)

struct Traffic {
  NetworkVsc* driver = nullptr;
  Queue* queue = nullptr;
  uint32_t size = 1514;
  uint64_t received = 0, bytes = 0, bad = 0, next = 0;
  bool verify = false;
};

// To everybody, so that no switch needs to know anyone; a number, then a pattern made from it.
void FillFrame(std::byte* at, uint32_t size, const uint8_t* mac, uint64_t number, bool pattern) {
  memset(at, 0xFF, 6);
  memcpy(at + 6, mac, 6);
  memcpy(at + 12, kLocalExperiment, sizeof(kLocalExperiment));
  memcpy(at + kEthernetHeader, &number, sizeof(number));
  if (!pattern) return;
  for (uint32_t i = kEthernetHeader + 8; i < size; ++i) {
    at[i] = static_cast<std::byte>(number * 31 + i);
  }
}

void TakeFrame(Traffic& t, const std::byte* data, uint32_t length) {
  if (length < kEthernetHeader + 8 || memcmp(data + 12, kLocalExperiment, 2) != 0) return;
  ++t.received;
  t.bytes += length;
  if (!t.verify) return;
  uint64_t number = 0;
  memcpy(&number, data + kEthernetHeader, sizeof(number));
  bool good = number == t.next++;
  for (uint32_t i = kEthernetHeader + 8; i < length && good; ++i) {
    good = data[i] == static_cast<std::byte>(number * 31 + i);
  }
  if (!good) ++t.bad;
}

// Takes what is there; sleeps when nothing is.
void Receive(Traffic& t, bool may_sleep) {
  Queue& queue = *t.queue;
  bool any = false;
  for (int i = 0; i < 32; ++i) {
    if (!t.driver->Poll(queue.channel,
                        [&](std::byte* data, uint32_t length) { TakeFrame(t, data, length); })) {
      break;
    }
    any = true;
  }
  queue.channel.Commit();
  if (!any && may_sleep) Idle(queue);
}

// Puts one frame in line; makes room by handing sections over and, at last, by waiting.
void SendFrame(Traffic& t, uint32_t size, uint64_t number) {
  uint32_t handed_over = 0;
  while (true) {
    std::byte* at = t.driver->Prepare(size);
    if (at != nullptr) {
      FillFrame(at, size, t.driver->mac().data(), number, t.verify);
      return;
    }
    if (handed_over++ == 0 && t.driver->Flush(t.queue->channel)) continue;
    // Published only when there is nothing else to do: the parent then finds a burst.
    t.queue->channel.Commit();
    Receive(t, true);
    handed_over = 0;
  }
}

void Echo(Traffic& t, uint64_t deadline) {
  for (uint64_t number = 0; Tsc() < deadline; ++number) {
    const uint64_t start = Tsc();
    const uint64_t before = t.received;
    SendFrame(t, t.size, number);
    static_cast<void>(t.driver->Flush(t.queue->channel));
    t.queue->channel.Commit();
    while (t.received == before) Receive(t, true);
    t.queue->latency.Record(Tsc() - start);
    ++t.queue->ios;
  }
}

// The job that "dir" names, on an open connection.
void MoveFrames(Connection& connection, Queue& queue) {
  if (OpenQueue(connection, queue, 0, vmbus::kNetworkClass) != Result::kOk) {
    Fail("the adapter does not open");
  }
  Traffic t;
  t.driver = Make<NetworkVsc>(connection, *queue.transport, queue.channel);
  t.queue = &queue;
  constexpr size_t kReceiveBuffer = 4 << 20, kSendBuffer = 1 << 20;
  const NetworkVsc::Buffers buffers = {.receive = {Allocate(kReceiveBuffer), kReceiveBuffer},
                                       .send = {Allocate(kSendBuffer), kSendBuffer},
                                       .scratch = Allocate(4096)};
  if (t.driver->Initialize(buffers) != Result::kOk) Fail("the adapter does not initialise");
  const std::string_view direction = Argument("dir");
  t.size = static_cast<uint32_t>(NumberArgument("size", 1514));
  t.verify = direction == "verify";
  if (t.size < 60 || t.size > 1514) Fail("size out of range");
  queue.channel.reader().MaskInterrupts();
  JsonLine("ready").Number("size", t.size);
  if (direction == "receive") {  // time begins with the first frame
    while (t.received == 0) Receive(t, true);
  }
  const uint64_t interrupts = Interrupts(0), doorbells = queue.channel.doorbells();
  queue.start = Tsc();
  const uint64_t deadline = queue.start + NumberArgument("seconds", 1) * tsc_hz;
  const uint64_t first = t.received;
  if (t.verify) {
    const uint64_t frames = NumberArgument("frames", 50000);
    for (uint64_t number = 0; number < frames; ++number) {
      // Sizes of every kind; not so far ahead of what came back that frames have to be dropped.
      SendFrame(t, 60 + static_cast<uint32_t>(number * 37 % (t.size - 59)), number);
      while (number + 1 - t.received > 100) {
        static_cast<void>(t.driver->Flush(queue.channel));
        queue.channel.Commit();
        Receive(t, true);
      }
    }
    static_cast<void>(t.driver->Flush(queue.channel));
    queue.channel.Commit();
    while (t.received < frames) Receive(t, true);
    queue.ios = t.received;
    queue.errors = t.bad;
  } else if (direction == "send") {
    uint64_t number = 0;
    while ((number & 63) != 0 || Tsc() < deadline) SendFrame(t, t.size, number++);
    static_cast<void>(t.driver->Flush(queue.channel));
    queue.channel.Commit();
    while (t.driver->pending() > 0) Receive(t, true);
    queue.ios = t.driver->sent();
  } else if (direction == "receive") {
    while (Tsc() < deadline) Receive(t, true);
    queue.ios = t.received - first;
  } else {
    Echo(t, deadline);
  }
  queue.end = Tsc();
  auto nanoseconds = [](uint64_t ticks) { return ticks * 1000 / (tsc_hz / 1000000); };
  JsonLine("result")
      .Number("ios", queue.ios)
      .Number("errors", queue.errors)
      .Number("bytes", t.bytes)
      .Number("ns", nanoseconds(queue.end - queue.start))
      .Number("doorbells", queue.channel.doorbells() - doorbells)
      .Number("interrupts", Interrupts(0) - interrupts)
      .Number("waits", queue.waits)
      .Number("p50_ns", nanoseconds(queue.latency.PerMille(500)))
      .Number("p99_ns", nanoseconds(queue.latency.PerMille(990)))
      .Number("p999_ns", nanoseconds(queue.latency.PerMille(999)));
}

void RunNetwork() {
  queues[0] = Make<Queue>();
  queues[0]->transport = Make<GuestTransport>(0u);
  job.poll = Argument("mode") == "poll";
  Connection* connection = Make<Connection>(*queues[0]->transport);
  if (connection->Connect(vmbus::kVersion5_3, 0) != Result::kOk) Fail("no VMBus connection");
  if (connection->RequestOffers() != Result::kOk) Fail("no offers");
  MoveFrames(*connection, *queues[0]);
}

// Two VPs end the machine in two ways at the same moment.
std::atomic<uint32_t> at_the_line{0};

void WaitAtTheLine() {
  at_the_line.fetch_add(1);
  while (at_the_line.load() < 2) asm volatile("pause");
}

void CrashAtTheLine(uint64_t) {
  WaitAtTheLine();
  Call(kSysWriteMsr, hv::kMsrCrashCtl, hv::kCrashNotify);
  while (true) asm volatile("pause");
}

void RunCollide() {
  Call(kSysStartVp, 1, reinterpret_cast<uintptr_t>(&CrashAtTheLine), 0);
  WaitAtTheLine();
  Call(kSysWriteMsr, hv::kMsrReset, 1);
  while (true) asm volatile("pause");
}

void RunStorage() {
  ParseJob();
  Connection* connection = nullptr;
  for (uint32_t i = 0; i < job.vps; ++i) {
    queues[i] = Make<Queue>();
    queues[i]->vp = i;
    queues[i]->transport = Make<GuestTransport>(i);
  }
  GuestTransport& transport = *queues[0]->transport;
  connection = Make<Connection>(transport);
  if (connection->Connect(vmbus::kVersion5_3, 0) != Result::kOk) Fail("no VMBus connection");
  if (connection->RequestOffers() != Result::kOk) Fail("no offers");
  JsonLine("vmbus")
      .Number("version", connection->version())
      .Number("offers", connection->offers().size());
  if (!Argument("dir").empty()) {  // frames first, then the disk
    Queue* adapter = Make<Queue>();
    adapter->transport = &transport;
    MoveFrames(*connection, *adapter);
  }
  if (OpenQueue(*connection, *queues[0], 0) != Result::kOk) Fail("the primary does not open");
  storage = Make<StorageVsc>(transport, queues[0]->channel);
  if (storage->Initialize() != Result::kOk) Fail("the controller does not initialise");
  if (storage->ReadCapacity(0, Allocate(4096), &geometry) != Result::kOk)
    Fail("there is no disk 0");
  JsonLine("disk").Number("blocks", geometry.blocks).Number("block_size", geometry.block_size);
  if (job.block_size % geometry.block_size != 0 ||
      job.bytes > geometry.blocks * geometry.block_size ||
      geometry.blocks * geometry.block_size < job.block_size) {
    Fail("the disk is too small for this job");
  }
  if (job.vps > 1) {
    if (storage->max_subchannels() + 1u < job.vps) Fail("too few channels");
    if (storage->RequestSubChannels(static_cast<uint16_t>(job.vps - 1)) != Result::kOk) {
      Fail("no sub-channels");
    }
  }
  const size_t data = job.kind == Job::Kind::kBench ? size_t{job.depth} * job.block_size : 1 << 20;
  for (uint32_t i = 0; i < job.vps; ++i) {
    queues[i]->data = Allocate(data);
    if (i > 0 && OpenQueue(*connection, *queues[i], static_cast<uint16_t>(i)) != Result::kOk) {
      Fail("a sub-channel does not open");
    }
  }
  for (uint32_t i = 1; i < job.vps; ++i) {
    Call(kSysStartVp, i, reinterpret_cast<uintptr_t>(&RunQueue), i);
  }
  RunQueue(0);
  for (uint32_t i = 1; i < job.vps; ++i) {
    while (queues[i]->done.load() == 0) asm volatile("pause");
  }
  Report();
}

}  // namespace

void UserMain(uint64_t) {
  tsc_hz = TscHz();
  const std::string_view kind = Argument("job");
  JsonLine("hello").Text("job", kind).Number("tsc_hz", tsc_hz);
  if (kind == "memory") {
    TouchMemory();
  } else if (kind == "network") {
    RunNetwork();
  } else if (kind == "hostile") {
    RunHostile();
  } else if (kind == "flood") {
    RunFlood();
  } else if (kind == "platform") {
    ReportPlatform();
  } else if (kind == "collide") {
    RunCollide();
  } else if (kind == "registers") {
    ReportRegisters();
  } else if (kind == "verify" || kind == "bench") {
    RunStorage();
  } else if (kind != "hello") {
    Fail("there is no such job");  // and what a mistyped one meant is not to be guessed from a disk
  }
  JsonLine("bye").Number("interrupts", Interrupts(0));
  PowerOff();
}

}  // namespace partita::guest
