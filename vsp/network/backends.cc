#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <functional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "base/log.h"
#include "base/mutex.h"
#include "vsp/network/net_backend.h"
#include "vsp/network/offload.h"

namespace partita::network {
namespace {

// An asynchronous cancel of one operation.
struct CancelOp final : IoRing::Op {
  bool pending = false;
  std::function<void()> then;  // once this cancel is over, whatever became of it
  void OnComplete(int32_t, uint32_t) override {
    pending = false;
    if (then) then();
  }
  void Start(IoRing& ring, IoRing::Op* target) {
    io_uring_sqe* sqe = ring.Prepare(this);
    if (sqe == nullptr) return;
    pending = true;
    sqe->opcode = IORING_OP_ASYNC_CANCEL;
    sqe->fd = -1;
    sqe->addr = reinterpret_cast<uintptr_t>(target);
  }
};

// --- TAP ---

// Whether the kernel may steer frames to this queue of a TAP that has several. What is detached
// holds no frames.
absl::Status AttachQueue(int fd, bool attach) {
  ifreq request{};
  request.ifr_flags = attach ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE;
  if (ioctl(fd, TUNSETQUEUE, &request) == 0) return absl::OkStatus();
  return SystemError(attach ? "attaching a TAP's queue" : "detaching a TAP's queue");
}

bool IsAttached(int fd) {
  ifreq request{};
  return ioctl(fd, TUNGETIFF, &request) == 0 && (request.ifr_flags & IFF_DETACH_QUEUE) == 0;
}

class TapQueue final : public NetQueue {
 public:
  // Reads in one chain. A chain is linked, so that one of them waits for a frame and the rest
  // follow without a system call or a wait of their own.
  static constexpr size_t kChain = 32;

  // `detach`: the queue goes with its channel.
  TapQueue(FrameOwner& owner, IoRing& ring, int fixed, int fd, bool detach)
      : owner_(owner), ring_(ring), fixed_(fixed), fd_(fd), detach_(detach) {}
  ~TapQueue() override {
    if (!detach_) return;
    if (const absl::Status status = AttachQueue(fd_, false); !status.ok()) {
      LogLimited("network: " + std::string(Message(status)));
    }
  }

  void Send(TransmitFrame& frame) override {
    SendOp* op = TakeSendOp();
    op->frame = &frame;
    ++sends_;
    frame.iovecs[0] = {&frame.header, sizeof(frame.header)};
    io_uring_sqe* sqe = ring_.Prepare(op);
    if (sqe == nullptr) return op->OnComplete(-ENOBUFS, 0);
    sqe->opcode = IORING_OP_WRITEV;
    sqe->fd = fixed_;
    sqe->addr = reinterpret_cast<uintptr_t>(frame.iovecs.data());
    sqe->len = static_cast<uint32_t>(frame.iovecs.size());
    sqe->off = UINT64_MAX;
  }

  void PostReceives() override {
    if (reads_ != 0 || cancelled_ || cancel_.pending) return;
    std::array<io_uring_sqe*, kChain> chain{};
    size_t count = 0;
    // A chain must not be cut in two by a submission in between.
    if (ring_.space() < kChain) ring_.Submit(0);
    while (count < kChain) {
      ReceiveSlot* slot = owner_.TakeSlot();
      if (slot == nullptr) break;
      ReadOp& op = read_ops_[count];
      op.queue = this;
      op.slot = slot;
      slot->iovecs[0] = {&slot->header, sizeof(slot->header)};
      io_uring_sqe* sqe = ring_.Prepare(&op);
      if (sqe == nullptr) {
        owner_.OnReceived(*slot, 0);
        break;
      }
      sqe->opcode = IORING_OP_READV;
      sqe->fd = fixed_;
      sqe->addr = reinterpret_cast<uintptr_t>(slot->iovecs.data());
      sqe->len = static_cast<uint32_t>(slot->iovecs.size());
      sqe->off = UINT64_MAX;
      chain[count++] = sqe;
    }
    // Hard, because a frame shorter than its slot would break a soft link.
    for (size_t i = 0; i + 1 < count; ++i) chain[i]->flags |= IOSQE_IO_HARDLINK;
    reads_ = count;
  }

  void Cancel() override {
    cancelled_ = true;
    CancelReceives();
  }
  // Of a chain only the first operation is known to the kernel as waiting; with its end the next
  // one starts and waits. So they are cancelled one after the other, each as often as it takes.
  void CancelReceives() override {
    if (reads_ == 0 || cancel_.pending) return;
    const auto first = std::find_if(read_ops_.begin(), read_ops_.end(),
                                    [](const ReadOp& op) { return op.slot != nullptr; });
    cancel_.then = [this] { CancelReceives(); };
    cancel_.Start(ring_, &*first);
  }
  [[nodiscard]] bool Idle() const override {
    return sends_ == 0 && reads_ == 0 && !cancel_.pending;
  }

  void SetCoalesced(bool coalesced) override {
    // A guest that takes no coalesced frames may be passing them on to others: then the kernel
    // finishes checksums too.
    const unsigned offload = coalesced ? TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN : 0u;
    if (ioctl(fd_, TUNSETOFFLOAD, offload) != 0) {
      LogLimited("network: the TAP does not take its offloads: " + std::string(strerror(errno)));
    }
  }

 private:
  struct SendOp final : IoRing::Op {
    explicit SendOp(TapQueue& q) : queue(q) {}
    void OnComplete(int32_t result, uint32_t) override {
      TransmitFrame& sent = *std::exchange(frame, nullptr);
      --queue.sends_;
      queue.free_sends_.push_back(this);
      queue.owner_.OnSent(sent, result >= 0);
    }
    TapQueue& queue;
    TransmitFrame* frame = nullptr;
  };
  struct ReadOp final : IoRing::Op {
    void OnComplete(int32_t result, uint32_t) override {
      ReceiveSlot& filled = *std::exchange(slot, nullptr);
      --queue->reads_;
      constexpr int32_t kHeader = sizeof(VnetHeader);
      queue->owner_.OnReceived(filled,
                               result > kHeader ? static_cast<uint32_t>(result - kHeader) : 0);
    }
    TapQueue* queue = nullptr;
    ReceiveSlot* slot = nullptr;
  };
  SendOp* TakeSendOp() {
    if (free_sends_.empty()) {
      send_ops_.push_back(std::make_unique<SendOp>(*this));
      return send_ops_.back().get();
    }
    SendOp* op = free_sends_.back();
    free_sends_.pop_back();
    return op;
  }

  FrameOwner& owner_;
  IoRing& ring_;
  const int fixed_, fd_;
  const bool detach_;
  std::vector<std::unique_ptr<SendOp>> send_ops_;
  std::vector<SendOp*> free_sends_;
  std::array<ReadOp, kChain> read_ops_;
  CancelOp cancel_;
  size_t sends_ = 0, reads_ = 0;
  bool cancelled_ = false;
};

class TapBackend final : public NetBackend {
 public:
  explicit TapBackend(std::vector<UniqueFd> queues) : queues_(std::move(queues)) {
    properties_ = {.queues = static_cast<uint32_t>(queues_.size()),
                   .checksum = true,
                   .large_send = true,
                   .coalesced = true,
                   .filters = true};
  }
  ~TapBackend() override {
    // A TAP may outlive us; what it keeps of a filter is its address in our memory.
    static_cast<void>(ioctl(queues_[0].get(), TUNDETACHFILTER, 0));
  }
  // The filter is the device's, applied where a frame enters one of its queues. For a queue that is
  // attached later the kernel reads it again, from here: it has to stay.
  void SetFilter(const ReceiveFilter& filter) override {
    std::vector<sock_filter> code = CompileFilter(filter);
    MutexLock lock(mutex_);
    if (UseFilter(code)) code_.swap(code);
  }
  [[nodiscard]] const NetProperties& properties() const override { return properties_; }
  [[nodiscard]] std::vector<int> files(uint32_t index) const override {
    return {queues_[index].get()};
  }
  [[nodiscard]] std::vector<uint8_t> opcodes() const override {
    return {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_ASYNC_CANCEL};
  }
  absl::StatusOr<std::unique_ptr<NetQueue>> OpenQueue(FrameOwner& owner, IoRing& ring,
                                                      uint32_t index, int first) override {
    // The first queue always stays: frames that come while the guest starts have a place to wait.
    if (index > 0) RETURN_IF_ERROR(Attach(queues_[index].get()));
    return std::make_unique<TapQueue>(owner, ring, first, queues_[index].get(), index > 0);
  }

 private:
  bool UseFilter(std::vector<sock_filter>& code) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    sock_fprog program{.len = static_cast<uint16_t>(code.size()), .filter = code.data()};
    if (ioctl(queues_[0].get(), TUNATTACHFILTER, &program) == 0) return true;
    LogLimited("network: the TAP does not take its filter: " + std::string(strerror(errno)));
    return false;
  }
  // Linux (6.1 for one) gives a queue that comes back to a TAP with a filter that filter, and then
  // reports success without attaching it (docs/quirks.md). It attaches where the TAP has no filter.
  // So the device forgets its own for a moment, by being given one that cannot be; what each queue
  // has stays in force, and no frame gets in unseen.
  absl::Status Attach(int fd) {
    MutexLock lock(mutex_);
    RETURN_IF_ERROR(AttachQueue(fd, true));
    if (IsAttached(fd)) return absl::OkStatus();
    sock_fprog impossible{.len = 1, .filter = nullptr};
    static_cast<void>(ioctl(queues_[0].get(), TUNATTACHFILTER, &impossible));
    const absl::Status attached = AttachQueue(fd, true);
    UseFilter(code_);
    if (!attached.ok() || IsAttached(fd)) return attached;
    return Internal("attaching a TAP's queue: it stays detached");
  }

  std::vector<UniqueFd> queues_;
  Mutex mutex_;
  std::vector<sock_filter> code_ ABSL_GUARDED_BY(mutex_);
  NetProperties properties_;
};

// --- a stream of frames ---

// What outlives a queue: a channel may close in the middle of a frame, and the other end goes on.
struct StreamState {
  static constexpr size_t kReadBytes = 256 << 10;
  std::vector<std::byte> buffer = std::vector<std::byte>(kReadBytes);
  size_t start = 0, filled = 0;  // what has arrived and is not handed over
  std::vector<std::byte> tail;   // of a frame that was sent in part
  bool broken = false;
  std::function<void(std::string why)> down;
};

class StreamQueue final : public NetQueue {
 public:
  static constexpr size_t kMaxQueued = 1024;  // frames; more are dropped, as on a full wire
  StreamQueue(FrameOwner& owner, IoRing& ring, int fixed, StreamState& state)
      : owner_(owner), ring_(ring), fixed_(fixed), s_(state) {}

  void Send(TransmitFrame& frame) override {
    if (s_.broken || cancelled_ || waiting_.size() >= kMaxQueued)
      return owner_.OnSent(frame, false);
    waiting_.push_back(&frame);
    if (!write_.pending) StartWrite();
  }

  void PostReceives() override {
    if (!s_.tail.empty() && !write_.pending && !s_.broken && !cancelled_) StartWrite();
    if (!cancelled_) Deliver();
    if (read_.pending || s_.broken || cancelled_) return;
    Compact();
    if (s_.filled == s_.buffer.size()) return;
    io_uring_sqe* sqe = ring_.Prepare(&read_);
    if (sqe == nullptr) return;
    read_.pending = true;
    sqe->opcode = IORING_OP_READ;
    sqe->fd = fixed_;
    sqe->addr = reinterpret_cast<uintptr_t>(s_.buffer.data() + s_.filled);
    sqe->len = static_cast<uint32_t>(s_.buffer.size() - s_.filled);
    sqe->off = UINT64_MAX;
  }

  void Cancel() override {
    cancelled_ = true;
    for (TransmitFrame* frame : std::exchange(waiting_, {})) owner_.OnSent(*frame, false);
    if (read_.pending && !cancel_read_.pending) cancel_read_.Start(ring_, &read_);
    if (write_.pending && !cancel_write_.pending) cancel_write_.Start(ring_, &write_);
  }
  [[nodiscard]] bool Idle() const override {
    return !read_.pending && !write_.pending && waiting_.empty() && !cancel_read_.pending &&
           !cancel_write_.pending;
  }

 private:
  struct ReadOp final : IoRing::Op {
    explicit ReadOp(StreamQueue& q) : queue(q) {}
    void OnComplete(int32_t result, uint32_t) override {
      pending = false;
      if (result > 0) {
        queue.s_.filled += static_cast<size_t>(result);
        if (!queue.cancelled_) queue.Deliver();
      } else if (result != -EAGAIN && result != -EINTR && result != -ECANCELED) {
        queue.Break(result);
      }
    }
    StreamQueue& queue;
    bool pending = false;
  };
  struct WriteOp final : IoRing::Op {
    explicit WriteOp(StreamQueue& q) : queue(q) {}
    void OnComplete(int32_t result, uint32_t) override { queue.OnWritten(result); }
    StreamQueue& queue;
    bool pending = false;
    std::vector<TransmitFrame*> frames;
    std::vector<iovec> iovecs;
    std::vector<size_t> ends;  // of each frame, in iovecs
    size_t tail = 0;           // iovecs of the frame that another queue has begun
    size_t at = 0;             // first iovec that is not all written
    bool inside = false;       // and part of it is
  };

  void Break(int32_t result) {
    if (std::exchange(s_.broken, true)) return;
    const std::string why = result == 0 ? "the other end of the wire is gone"
                                        : "the wire failed: " + std::string(strerror(-result));
    Log("network: " + why);
    for (TransmitFrame* frame : std::exchange(waiting_, {})) owner_.OnSent(*frame, false);
    if (s_.down) s_.down(why);
  }
  // As many frames as one call takes.
  void StartWrite() {
    constexpr size_t kMaxIovecs = 1000;  // below the kernel's limit of 1024
    write_.iovecs.clear();
    write_.ends.clear();
    write_.at = 0;
    if (!s_.tail.empty()) write_.iovecs.push_back({s_.tail.data(), s_.tail.size()});
    write_.tail = write_.iovecs.size();
    while (!waiting_.empty()) {
      TransmitFrame* frame = waiting_.front();
      if (!write_.frames.empty() && write_.iovecs.size() + frame->iovecs.size() > kMaxIovecs) break;
      waiting_.pop_front();
      // The length takes the place of the header that this backend has no use for.
      const uint32_t length = htonl(frame->length);
      std::memcpy(&frame->header, &length, sizeof(length));
      frame->iovecs[0] = {&frame->header, sizeof(length)};
      write_.frames.push_back(frame);
      write_.iovecs.insert(write_.iovecs.end(), frame->iovecs.begin(), frame->iovecs.end());
      write_.ends.push_back(write_.iovecs.size());
    }
    if (!write_.iovecs.empty()) ContinueWrite();
  }
  void ContinueWrite() {
    io_uring_sqe* sqe = ring_.Prepare(&write_);
    if (sqe == nullptr) return OnWritten(-EIO);
    write_.pending = true;
    sqe->opcode = IORING_OP_WRITEV;
    sqe->fd = fixed_;
    sqe->addr = reinterpret_cast<uintptr_t>(write_.iovecs.data() + write_.at);
    sqe->len = static_cast<uint32_t>(write_.iovecs.size() - write_.at);
    sqe->off = UINT64_MAX;
  }
  void OnWritten(int32_t result) {
    write_.pending = false;
    if (result > 0) {
      auto left = static_cast<size_t>(result);
      while (write_.at < write_.iovecs.size() && left >= write_.iovecs[write_.at].iov_len) {
        left -= write_.iovecs[write_.at++].iov_len;
        write_.inside = false;
      }
      if (left > 0) {
        write_.inside = true;
        iovec& part = write_.iovecs[write_.at];
        part = {static_cast<std::byte*>(part.iov_base) + left, part.iov_len - left};
      }
    } else if (result != -EAGAIN && result != -EINTR) {
      if (result != -ECANCELED) Break(result == 0 ? -EPIPE : result);
    }
    if (write_.at < write_.iovecs.size() && !cancelled_ && !s_.broken) return ContinueWrite();
    const size_t sent = KeepTail();
    const std::vector<TransmitFrame*> frames = std::exchange(write_.frames, {});
    for (size_t i = 0; i < frames.size(); ++i) owner_.OnSent(*frames[i], i < sent && !s_.broken);
    if (!waiting_.empty() && !s_.broken && !write_.pending) StartWrite();
  }
  // After the last write of a batch: of a frame that is on the wire in part the rest is kept, for
  // whoever writes next; the frames behind it are lost. How many are sent, or will be.
  size_t KeepTail() {
    std::vector<std::byte> rest;
    size_t sent = 0, begin = write_.tail;
    auto keep = [&](size_t end) {
      for (size_t i = write_.at; i < end; ++i) {
        const auto* bytes = static_cast<const std::byte*>(write_.iovecs[i].iov_base);
        rest.insert(rest.end(), bytes, bytes + write_.iovecs[i].iov_len);
      }
    };
    if (write_.at < write_.tail) keep(write_.tail);
    for (const size_t end : write_.ends) {
      const bool begun = write_.at > begin || (write_.at == begin && write_.inside);
      if (!begun) break;
      if (write_.at < end) keep(end);
      ++sent;
      begin = end;
    }
    s_.tail = std::move(rest);
    return sent;
  }
  // Hands over the whole frames that have arrived, as far as there are slots; what is not wanted
  // gets none. Nothing moves: a read may be under way behind them.
  void Deliver() {
    while (!s_.broken && s_.filled - s_.start >= sizeof(uint32_t)) {
      uint32_t length = 0;
      std::memcpy(&length, s_.buffer.data() + s_.start, sizeof(length));
      length = ntohl(length);
      if (length > kMaxFrame) return Break(-EBADMSG);
      if (s_.filled - s_.start - sizeof(uint32_t) < length) break;
      const auto frame =
          std::span<const std::byte>(s_.buffer).subspan(s_.start + sizeof(uint32_t), length);
      if (length > 0 && owner_.Wants(frame.first(std::min(length, kIncomingHead)))) {
        ReceiveSlot* slot = owner_.TakeSlot();
        if (slot == nullptr) break;
        slot->header = {};
        owner_.OnReceived(*slot, Fill(*slot, frame.data(), length));
      }
      s_.start += sizeof(uint32_t) + length;
    }
  }
  // Makes room for the next read. Only between reads: the kernel writes where the last one began.
  void Compact() {
    if (s_.start == 0) return;
    std::memmove(s_.buffer.data(), s_.buffer.data() + s_.start, s_.filled - s_.start);
    s_.filled -= std::exchange(s_.start, 0);
  }
  static uint32_t Fill(ReceiveSlot& slot, const std::byte* bytes, uint32_t length) {
    if (length > slot.capacity) return 0;
    uint32_t done = 0;
    for (size_t i = 1; i < slot.iovecs.size() && done < length; ++i) {
      const size_t part = std::min<size_t>(slot.iovecs[i].iov_len, length - done);
      std::memcpy(slot.iovecs[i].iov_base, bytes + done, part);
      done += static_cast<uint32_t>(part);
    }
    return done;
  }

  FrameOwner& owner_;
  IoRing& ring_;
  const int fixed_;
  StreamState& s_;
  std::deque<TransmitFrame*> waiting_;
  ReadOp read_{*this};
  WriteOp write_{*this};
  CancelOp cancel_read_, cancel_write_;
  bool cancelled_ = false;
};

class StreamBackend final : public NetBackend {
 public:
  explicit StreamBackend(UniqueFd socket) : socket_(std::move(socket)) {}
  [[nodiscard]] const NetProperties& properties() const override { return properties_; }
  [[nodiscard]] std::vector<int> files(uint32_t) const override { return {socket_.get()}; }
  [[nodiscard]] std::vector<uint8_t> opcodes() const override {
    return {IORING_OP_READ, IORING_OP_WRITEV, IORING_OP_ASYNC_CANCEL};
  }
  absl::StatusOr<std::unique_ptr<NetQueue>> OpenQueue(FrameOwner& owner, IoRing& ring, uint32_t,
                                                      int first) override {
    return std::make_unique<StreamQueue>(owner, ring, first, state_);
  }
  void OnDown(std::function<void(std::string why)> down) override { state_.down = std::move(down); }

 private:
  UniqueFd socket_;
  StreamState state_;
  NetProperties properties_;
};

// --- null and loopback ---

class LocalQueue final : public NetQueue {
 public:
  LocalQueue(FrameOwner& owner, bool loop) : owner_(owner), loop_(loop) {}
  void Send(TransmitFrame& frame) override {
    bool ok = true;
    if (loop_ && !cancelled_ && Wanted(frame)) {
      ReceiveSlot* slot = owner_.TakeSlot();
      ok = slot != nullptr;
      if (slot != nullptr) owner_.OnReceived(*slot, Copy(frame, *slot));
    }
    owner_.OnSent(frame, ok);
  }
  void PostReceives() override {}
  void Cancel() override { cancelled_ = true; }
  [[nodiscard]] bool Idle() const override { return true; }

 private:
  bool Wanted(const TransmitFrame& frame) {
    std::array<std::byte, kIncomingHead> head{};
    size_t done = 0;
    for (size_t i = 1; i < frame.iovecs.size() && done < head.size(); ++i) {
      const size_t part = std::min(head.size() - done, frame.iovecs[i].iov_len);
      std::memcpy(head.data() + done, frame.iovecs[i].iov_base, part);
      done += part;
    }
    return owner_.Wants(std::span(head).first(done));
  }
  static uint32_t Copy(const TransmitFrame& frame, ReceiveSlot& slot) {
    if (frame.length > slot.capacity) return 0;
    slot.header = frame.header;
    size_t to = 1, at = 0;
    for (size_t from = 1; from < frame.iovecs.size(); ++from) {
      const auto* bytes = static_cast<const std::byte*>(frame.iovecs[from].iov_base);
      size_t left = frame.iovecs[from].iov_len;
      while (left > 0) {
        const size_t part = std::min(left, slot.iovecs[to].iov_len - at);
        std::memcpy(static_cast<std::byte*>(slot.iovecs[to].iov_base) + at, bytes, part);
        bytes += part;
        left -= part;
        at += part;
        if (at == slot.iovecs[to].iov_len) {
          ++to;
          at = 0;
        }
      }
    }
    return frame.length;
  }
  FrameOwner& owner_;
  const bool loop_;
  bool cancelled_ = false;
};

class LocalBackend final : public NetBackend {
 public:
  LocalBackend(uint32_t queues, bool loop) : loop_(loop) {
    properties_ = {.queues = queues, .checksum = true, .large_send = !loop};
  }
  [[nodiscard]] const NetProperties& properties() const override { return properties_; }
  [[nodiscard]] std::vector<int> files(uint32_t) const override { return {}; }
  [[nodiscard]] std::vector<uint8_t> opcodes() const override { return {}; }
  absl::StatusOr<std::unique_ptr<NetQueue>> OpenQueue(FrameOwner& owner, IoRing&, uint32_t,
                                                      int) override {
    return std::make_unique<LocalQueue>(owner, loop_);
  }

 private:
  const bool loop_;
  NetProperties properties_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<NetBackend>> MakeTapBackend(std::vector<UniqueFd> queues) {
  if (queues.empty()) return InvalidArgument("a TAP without a descriptor");
  for (const UniqueFd& fd : queues) {
    // Non-blocking: without it io_uring hands each operation to a thread of its own on kernels
    // whose TAP does not say that it supports waiting without blocking (before 6.4).
    const int flags = fcntl(fd.get(), F_GETFL);
    if (flags < 0 || fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
      return SystemError("a TAP's descriptor");
    }
    int size = sizeof(VnetHeader);
    if (ioctl(fd.get(), TUNSETVNETHDRSZ, &size) != 0 || ioctl(fd.get(), TUNSETOFFLOAD, 0) != 0) {
      return SystemError("a TAP that has no virtio-net header");
    }
  }
  // A guest may use fewer channels than there are queues; nobody reads the others'.
  for (size_t i = 1; i < queues.size(); ++i) {
    RETURN_IF_ERROR(AttachQueue(queues[i].get(), false));
  }
  return std::make_unique<TapBackend>(std::move(queues));
}

absl::StatusOr<std::unique_ptr<NetBackend>> MakeStreamBackend(UniqueFd socket) {
  // Blocking: io_uring then waits by itself where a non-blocking socket would answer EAGAIN.
  const int flags = fcntl(socket.get(), F_GETFL);
  if (flags < 0 || fcntl(socket.get(), F_SETFL, flags & ~O_NONBLOCK) != 0) {
    return SystemError("a network stream");
  }
  return std::make_unique<StreamBackend>(std::move(socket));
}

std::unique_ptr<NetBackend> MakeNullBackend(uint32_t queues) {
  return std::make_unique<LocalBackend>(queues, false);
}
std::unique_ptr<NetBackend> MakeLoopbackBackend(uint32_t queues) {
  return std::make_unique<LocalBackend>(queues, true);
}

}  // namespace partita::network
