// The kernel SynIC backend: KVM owns the SynIC MSRs, timers and the hypercall page. Doorbells
// arrive through KVM_HYPERV_EVENTFD; an interrupt leaves through an irqfd on a Hyper-V SINT route,
// one GSI per VP. A busy message slot is retried when KVM reports the end of the message through
// the irqfd's resample event; that event also fires on every EOI of the vector, so it is watched
// only while a message waits.
#include <sys/epoll.h>

#include "base/event_loop.h"
#include "base/mutex.h"
#include "synic/synic.h"

namespace partita {
namespace {

constexpr uint32_t kFirstSintGsi = KvmVm::kIoApicPins;

class KernelSynic : public Synic {
 public:
  KernelSynic(KvmVm& vm, GuestMemory& memory, EventLoop& loop)
      : Synic(memory), vm_(vm), loop_(loop), routes_(KvmVm::IoApicRoutes()) {}
  ~KernelSynic() override {
    for (const auto& base : vps_) {
      const auto& vp = static_cast<const KernelVp&>(*base);
      if (vp.watched) loop_.Remove(vp.end_of_message.fd());
    }
  }

  absl::Status AttachVp(const KvmVcpu& vcpu, AutoEoiInjector&) override {
    RETURN_IF_ERROR(vcpu.EnableCap(KVM_CAP_HYPERV_SYNIC2, 0, "enabling KVM's SynIC"));
    // KVM starts a SynIC enabled; a guest must find it off.
    RETURN_IF_ERROR(vcpu.SetMsr(hv::kMsrScontrol, 0));
    ASSIGN_OR_RETURN(EventFd interrupt, EventFd::Create());
    ASSIGN_OR_RETURN(EventFd end_of_message, EventFd::Create());
    const uint32_t gsi = kFirstSintGsi + vcpu.index();
    kvm_irq_routing_entry& route = routes_.emplace_back();
    route.gsi = gsi;
    route.type = KVM_IRQ_ROUTING_HV_SINT;
    route.u.hv_sint.vcpu = vcpu.index();
    route.u.hv_sint.sint = hv::kVmbusSint;
    RETURN_IF_ERROR(vm_.SetRouting(routes_));
    RETURN_IF_ERROR(vm_.BindIrqfd(gsi, interrupt.fd(), end_of_message.fd()));
    auto vp = std::make_unique<KernelVp>(vcpu, std::move(interrupt), std::move(end_of_message));
    // A guest-chosen start state cannot be relied on: KVM tells every later change.
    vps_.push_back(std::move(vp));
    return absl::OkStatus();
  }

  absl::Status Bind(uint32_t connection_id, int event_fd) override {
    return vm_.BindHypervConnection(connection_id, event_fd, true);
  }
  void Unbind(uint32_t connection_id, int event_fd) override {
    static_cast<void>(vm_.BindHypervConnection(connection_id, event_fd, false).ok());
  }

  bool ReadMsr(uint32_t, uint32_t, uint64_t*) override { return false; }  // KVM's
  bool WriteMsr(uint32_t, uint32_t, uint64_t) override { return false; }

  void OnSynicExit(uint32_t index, uint64_t control, uint64_t siefp, uint64_t simp) override {
    Vp* vp = FindVp(index);
    if (vp == nullptr) return;
    MutexLock lock(vp->mutex);
    vp->enabled = (control & 1) != 0;
    SetFlagPage(*vp, siefp);
    SetMessagePage(*vp, simp);
    Deliver(*vp);
  }

  void DescribeTo(StatSink& sink) const override {
    Synic::DescribeTo(sink);
    sink.Add("synic.resamples", resamples_);
  }

 private:
  struct KernelVp : Vp {
    KernelVp(const KvmVcpu& v, EventFd i, EventFd e)
        : Vp(v), interrupt(std::move(i)), end_of_message(std::move(e)) {}
    EventFd interrupt;
    EventFd end_of_message;
    bool wanted = false;   // under the mutex: a message waits
    bool watched = false;  // control thread only
  };

  void Raise(Vp& base, uint32_t sint) override {
    if (sint != hv::kVmbusSint) {
      rejected_.Add();
      return;
    }
    interrupts_.Add();
    static_cast<KernelVp&>(base).interrupt.Set();
  }

  void QueueChanged(Vp& base) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(base.mutex) {
    auto& vp = static_cast<KernelVp&>(base);
    const bool want = !base.queue.empty();
    if (want == vp.wanted) return;
    vp.wanted = want;
    loop_.Post([this, alive = std::weak_ptr<bool>(alive_), index = vp.vcpu.index()] {
      if (!alive.expired()) UpdateWatch(index);
    });
  }

  // Control thread. The event's counter is emptied first, so that only ends of messages after this
  // point count; the retry right after covers those before it.
  void UpdateWatch(uint32_t index) {
    auto& vp = static_cast<KernelVp&>(*FindVp(index));
    MutexLock lock(vp.mutex);
    if (vp.wanted == vp.watched) return;
    vp.watched = vp.wanted;
    if (!vp.wanted) {
      loop_.Remove(vp.end_of_message.fd());
      return;
    }
    std::ignore = vp.end_of_message.Take();
    const absl::Status added =
        loop_.Add(vp.end_of_message.fd(), EPOLLIN, [this, &vp](uint32_t) { OnEndOfMessage(vp); });
    if (!added.ok()) vp.watched = false;
    Deliver(vp);
  }

  void OnEndOfMessage(KernelVp& vp) {
    MutexLock lock(vp.mutex);
    std::ignore = vp.end_of_message.Take();
    resamples_.Add();
    Deliver(vp);
  }

  KvmVm& vm_;
  EventLoop& loop_;
  std::vector<kvm_irq_routing_entry> routes_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // posted tasks may outlive us
  Counter resamples_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Synic>> MakeKernelSynic(KvmVm& vm, GuestMemory& memory,
                                                       EventLoop& loop) {
  return std::make_unique<KernelSynic>(vm, memory, loop);
}

}  // namespace partita
