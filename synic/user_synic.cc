// The user SynIC backend, for a KVM without Hyper-V emulation: SynIC and timer MSRs reach us
// through the MSR filter, doorbells are ports bound to eventfds, interrupts are MSIs.
#include <sys/timerfd.h>
#include <time.h>

#include <array>
#include <condition_variable>
#include <set>
#include <thread>
#include <tuple>

#include "base/mutex.h"
#include "partition/hypervisor/reference_clock.h"
#include "partition/machine.h"
#include "synic/synic.h"

namespace partita {
namespace {

constexpr uint32_t kTimers = 4;
constexpr uint64_t kShortestPeriod = 1000;  // 100 us, in 100 ns units

// One synthetic timer. TLFS, "Timers".
struct SyntheticTimer {
  uint64_t config = 0;
  uint64_t count = 0;
  uint64_t due = 0;  // reference time; 0 when not armed

  static constexpr uint64_t kEnable = 1, kPeriodic = 2, kAutoEnable = 8, kDirect = 1 << 12;
  static constexpr uint64_t kDefined = 0xF1FFF;  // bits 19:16 and 12:0
  [[nodiscard]] uint32_t sint() const { return (config >> 16) & 0xF; }
  [[nodiscard]] uint8_t vector() const { return static_cast<uint8_t>(config >> 4); }
};

class UserSynic : public Synic {
 public:
  UserSynic(KvmVm& vm, GuestMemory& memory, const ReferenceClock& clock, bool timers)
      : Synic(memory), vm_(vm), clock_(clock), timers_enabled_(timers) {
    if (timers_enabled_) timer_thread_ = std::thread([this] { TimerMain(); });
  }
  ~UserSynic() override {
    if (timer_thread_.joinable()) {
      {
        MutexLock lock(timer_mutex_);
        timer_stop_ = true;
      }
      timer_thread_.join();
    }
  }

  absl::Status AttachVp(const KvmVcpu& vcpu, AutoEoiInjector& injector) override {
    vps_.push_back(std::make_unique<UserVp>(vcpu, injector));
    return absl::OkStatus();
  }

  absl::Status Bind(uint32_t connection_id, int event_fd) override {
    if (connection_id < machine::kDoorbellBase ||
        connection_id - machine::kDoorbellBase >= machine::kDoorbellCount) {
      return InvalidArgument("connection id outside the doorbell ports");
    }
    return vm_.BindPort(static_cast<uint16_t>(connection_id), event_fd, true);
  }
  void Unbind(uint32_t connection_id, int event_fd) override {
    static_cast<void>(vm_.BindPort(static_cast<uint16_t>(connection_id), event_fd, false).ok());
  }

  bool ReadMsr(uint32_t index, uint32_t msr, uint64_t* value) override {
    UserVp* vp = Find(index);
    if (vp == nullptr) return false;
    MutexLock lock(vp->mutex);
    if (msr >= hv::kMsrSint0 && msr <= hv::kMsrSint15) {
      *value = vp->sint[msr - hv::kMsrSint0];
      return true;
    }
    if (msr >= hv::kMsrStimer0Config && msr <= hv::kMsrStimer3Count) {
      if (!timers_enabled_) return false;
      const SyntheticTimer& timer = vp->timers[(msr - hv::kMsrStimer0Config) / 2];
      *value = (msr - hv::kMsrStimer0Config) % 2 == 0 ? timer.config : timer.count;
      return true;
    }
    switch (msr) {
      case hv::kMsrScontrol:
        *value = vp->scontrol;
        return true;
      case hv::kMsrSversion:
        *value = 1;
        return true;
      case hv::kMsrSiefp:
        *value = vp->siefp;
        return true;
      case hv::kMsrSimp:
        *value = vp->simp;
        return true;
      case hv::kMsrEom:
        *value = 0;
        return true;
      default:
        return false;
    }
  }

  bool WriteMsr(uint32_t index, uint32_t msr, uint64_t value) override {
    UserVp* vp = Find(index);
    if (vp == nullptr) return false;
    if (msr >= hv::kMsrStimer0Config && msr <= hv::kMsrStimer3Count) {
      return timers_enabled_ && WriteTimer(*vp, msr - hv::kMsrStimer0Config, value);
    }
    MutexLock lock(vp->mutex);
    if (msr >= hv::kMsrSint0 && msr <= hv::kMsrSint15) {
      constexpr uint64_t kVectorMask = 0xFF, kFirstVector = 16;
      if ((value & hv::kSintMasked) == 0 && (value & kVectorMask) < kFirstVector) return false;
      vp->sint[msr - hv::kMsrSint0] = value;
      return true;
    }
    switch (msr) {
      case hv::kMsrScontrol:
        vp->scontrol = value;
        vp->enabled = (value & 1) != 0;
        break;
      case hv::kMsrSiefp:
        if (!SetFlagPage(*vp, value)) return false;
        vp->siefp = value;
        break;
      case hv::kMsrSimp:
        if (!SetMessagePage(*vp, value)) return false;
        vp->simp = value;
        break;
      case hv::kMsrEom:
        eoms_.Add();
        break;
      default:
        return false;
    }
    Deliver(*vp);
    return true;
  }

  void OnSynicExit(uint32_t, uint64_t, uint64_t, uint64_t) override {}

  void DescribeTo(StatSink& sink) const override {
    Synic::DescribeTo(sink);
    sink.Add("synic.eoms", eoms_);
    sink.Add("synic.timer_expirations", timer_expirations_);
  }

 private:
  struct UserVp : Vp {
    UserVp(const KvmVcpu& v, AutoEoiInjector& i) : Vp(v), injector(i) {
      sint.fill(hv::kSintMasked);
    }
    AutoEoiInjector& injector;
    uint64_t scontrol = 0, siefp = 0, simp = 0;
    std::array<uint64_t, hv::kSintCount> sint{};
    std::array<SyntheticTimer, kTimers> timers{};
  };

  [[nodiscard]] UserVp* Find(uint32_t index) const {
    return static_cast<UserVp*>(FindVp(index));  // every element was made by AttachVp
  }

  void Raise(Vp& base, uint32_t sint) override {
    const auto& vp = static_cast<const UserVp&>(base);
    const uint64_t config = vp.sint[sint];
    if ((config & (hv::kSintMasked | hv::kSintPolling)) != 0) return;
    interrupts_.Add();
    const auto vector = static_cast<uint8_t>(config);
    if ((config & hv::kSintAutoEoi) != 0) {
      vp.injector.InjectAutoEoi(vector);
    } else if (!vm_.SignalMsi(vp.vcpu.index(), vector)) {
      rejected_.Add();
    }
  }
  void QueueChanged(Vp&) override {}  // every EOM reaches WriteMsr

  bool WriteTimer(UserVp& vp, uint32_t reg, uint64_t value) {
    constexpr uint64_t kDirectVectorFirst = 16;
    MutexLock order(timer_mutex_);
    MutexLock lock(vp.mutex);
    SyntheticTimer& timer = vp.timers[reg / 2];
    armed_.erase({timer.due, vp.vcpu.index(), reg / 2});
    timer.due = 0;
    if (reg % 2 == 0) {
      if ((value & ~SyntheticTimer::kDefined) != 0) return false;
      timer.config = value;
      const bool direct = (value & SyntheticTimer::kDirect) != 0;
      if (direct && (value & SyntheticTimer::kEnable) != 0 && timer.vector() < kDirectVectorFirst) {
        timer.config &= ~SyntheticTimer::kEnable;
      }
      if (!direct && timer.sint() == 0) timer.config &= ~SyntheticTimer::kEnable;
    } else {
      timer.count = value;
      if (value == 0) {
        timer.config &= ~SyntheticTimer::kEnable;
      } else if ((timer.config & SyntheticTimer::kAutoEnable) != 0) {
        timer.config |= SyntheticTimer::kEnable;
      }
    }
    if ((timer.config & SyntheticTimer::kEnable) != 0 && timer.count != 0) {
      timer.due = (timer.config & SyntheticTimer::kPeriodic) != 0
                      ? clock_.ReferenceTime() + timer.count
                      : timer.count;
      armed_.insert({timer.due, vp.vcpu.index(), reg / 2});
    }
    return true;
  }

  void TimerMain() {
    pthread_setname_np(pthread_self(), "stimer");
    timer_mutex_.Lock();
    while (!timer_stop_) {
      uint64_t wait = UINT64_MAX;
      if (!armed_.empty()) wait = clock_.NanosecondsUntil(std::get<0>(*armed_.begin()));
      if (wait == 0) {
        const auto [due, index, number] = *armed_.begin();
        armed_.erase(armed_.begin());
        Expire(*Find(index), number, due);
        continue;
      }
      const auto seen = armed_.empty() ? Key{} : *armed_.begin();
      auto changed = [this, seen]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(timer_mutex_) {
        return timer_stop_ || (armed_.empty() ? Key{} : *armed_.begin()) != seen;
      };
      constexpr int64_t kLongest = 1000000000;
      std::ignore = timer_mutex_.AwaitFor(
          std::chrono::nanoseconds(std::min<uint64_t>(wait, static_cast<uint64_t>(kLongest))),
          changed);
    }
    timer_mutex_.Unlock();
  }

  void Expire(UserVp& vp, uint32_t number, uint64_t due)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(timer_mutex_) {
    MutexLock lock(vp.mutex);
    SyntheticTimer& timer = vp.timers[number];
    timer_expirations_.Add();
    if ((timer.config & SyntheticTimer::kPeriodic) != 0) {
      // A guest that asks for a period shorter than we can serve gets the present, not a backlog.
      // Nor may it keep the timer thread spinning.
      const uint64_t now = clock_.ReferenceTime();
      const uint64_t period = std::max(timer.count, kShortestPeriod);
      timer.due = due + period;
      if (timer.due < now) timer.due = now + period;
      armed_.insert({timer.due, vp.vcpu.index(), number});
    } else {
      timer.due = 0;
      timer.config &= ~SyntheticTimer::kEnable;
    }
    if ((timer.config & SyntheticTimer::kDirect) != 0) {
      interrupts_.Add();
      if (!vm_.SignalMsi(vp.vcpu.index(), timer.vector())) rejected_.Add();
      return;
    }
    const hv::TimerPayload payload = {.timer_index = number,
                                      .reserved = 0,
                                      .expiration_time = due,
                                      .delivery_time = clock_.ReferenceTime()};
    Enqueue(vp, timer.sint(),
            MakeMessage(hv::kMessageTypeTimer, std::as_bytes(std::span(&payload, 1))));
  }

  KvmVm& vm_;
  const ReferenceClock& clock_;
  const bool timers_enabled_;
  using Key = std::tuple<uint64_t, uint32_t, uint32_t>;  // due time, VP, timer
  Mutex timer_mutex_;                                    // taken before a VP's mutex
  std::set<Key> armed_ ABSL_GUARDED_BY(timer_mutex_);
  bool timer_stop_ ABSL_GUARDED_BY(timer_mutex_) = false;
  std::thread timer_thread_;
  Counter eoms_, timer_expirations_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Synic>> MakeUserSynic(KvmVm& vm, GuestMemory& memory,
                                                     const ReferenceClock& clock,
                                                     bool synthetic_timers) {
  return std::make_unique<UserSynic>(vm, memory, clock, synthetic_timers);
}

}  // namespace partita
