#include "partition/hypervisor/synthetic_msrs.h"

#include <time.h>

#include <algorithm>
#include <utility>

#include "base/mutex.h"
#include "partition/hypervisor/hypercall_page.h"

namespace partita {

struct SyntheticMsrs::Row {
  uint32_t first, last;
  bool (SyntheticMsrs::*read)(uint32_t, uint32_t, uint64_t*);
  bool (SyntheticMsrs::*write)(uint32_t, uint32_t, uint64_t);
};

// TLFS, appendix "Synthetic MSRs". A null handler means the access gets #GP.
const SyntheticMsrs::Row SyntheticMsrs::kTable[] = {
    {hv::kMsrGuestOsId, hv::kMsrGuestOsId, &SyntheticMsrs::ReadPartition,
     &SyntheticMsrs::WriteGuestOsId},
    {hv::kMsrHypercall, hv::kMsrHypercall, &SyntheticMsrs::ReadPartition,
     &SyntheticMsrs::WriteHypercall},
    {hv::kMsrVpIndex, hv::kMsrVpIndex, &SyntheticMsrs::ReadVp, nullptr},
    {hv::kMsrReset, hv::kMsrReset, &SyntheticMsrs::ReadPartition, &SyntheticMsrs::WriteReset},
    {hv::kMsrVpRuntime, hv::kMsrVpRuntime, &SyntheticMsrs::ReadVp, nullptr},
    {hv::kMsrTimeRefCount, hv::kMsrTimeRefCount, &SyntheticMsrs::ReadTime, nullptr},
    {hv::kMsrReferenceTsc, hv::kMsrReferenceTsc, &SyntheticMsrs::ReadPartition,
     &SyntheticMsrs::WriteReferenceTsc},
    {hv::kMsrTscFrequency, hv::kMsrApicFrequency, &SyntheticMsrs::ReadTime, nullptr},
    {hv::kMsrVpAssistPage, hv::kMsrVpAssistPage, &SyntheticMsrs::ReadVp,
     &SyntheticMsrs::WriteVpAssist},
    {hv::kMsrScontrol, hv::kMsrEom, &SyntheticMsrs::ReadSynic, &SyntheticMsrs::WriteSynic},
    {hv::kMsrSint0, hv::kMsrSint15, &SyntheticMsrs::ReadSynic, &SyntheticMsrs::WriteSynic},
    {hv::kMsrStimer0Config, hv::kMsrStimer3Count, &SyntheticMsrs::ReadSynic,
     &SyntheticMsrs::WriteSynic},
    {hv::kMsrCrashP0, hv::kMsrCrashCtl, &SyntheticMsrs::ReadCrash, &SyntheticMsrs::WriteCrash},
};

SyntheticMsrs::SyntheticMsrs(GuestMemory& memory, ReferenceClock& clock, SynicPort& synic,
                             Events events)
    : memory_(memory), clock_(clock), synic_(synic), events_(std::move(events)) {}

bool SyntheticMsrs::Read(uint32_t vp, uint32_t msr, uint64_t* value) {
  reads_.Add();
  for (const Row& row : kTable) {
    if (msr < row.first || msr > row.last) continue;
    if (row.read != nullptr && (this->*row.read)(vp, msr, value)) return true;
    break;
  }
  rejected_.Add();
  return false;
}

bool SyntheticMsrs::Write(uint32_t vp, uint32_t msr, uint64_t value) {
  writes_.Add();
  for (const Row& row : kTable) {
    if (msr < row.first || msr > row.last) continue;
    if (row.write != nullptr && (this->*row.write)(vp, msr, value)) return true;
    break;
  }
  rejected_.Add();
  return false;
}

bool SyntheticMsrs::WriteGuestOsId(uint32_t, uint32_t, uint64_t value) {
  MutexLock lock(mutex_);
  guest_os_id_ = value;
  if (value == 0) hypercall_ &= ~hv::kMsrPageEnable;
  return true;
}

bool SyntheticMsrs::WriteHypercall(uint32_t, uint32_t, uint64_t value) {
  constexpr uint64_t kLocked = 2;
  MutexLock lock(mutex_);
  if ((hypercall_ & kLocked) != 0) return true;
  if (guest_os_id_ == 0) value &= ~hv::kMsrPageEnable;
  if ((value & hv::kMsrPageEnable) != 0) {
    static const auto kPage = BuildHypercallPage();
    if (!memory_.Write(value & hv::kMsrPageMask, kPage)) return false;
  }
  hypercall_ = value;
  return true;
}

bool SyntheticMsrs::WriteReset(uint32_t, uint32_t, uint64_t value) {
  if ((value & 1) != 0) events_.reset();
  return true;
}

bool SyntheticMsrs::WriteReferenceTsc(uint32_t, uint32_t, uint64_t value) {
  MutexLock lock(mutex_);
  if ((value & hv::kMsrPageEnable) != 0) {
    const uint64_t gpa = value & hv::kMsrPageMask;
    hv::ReferenceTscPage page = clock_.Page();
    // The page is filled while its sequence says "invalid", then made valid.
    const uint32_t sequence = std::exchange(page.sequence, 0);
    if (!memory_.Store(gpa, page)) return false;
    auto& published = *reinterpret_cast<uint32_t*>(memory_.Range(gpa, sizeof(sequence)));
    std::atomic_ref<uint32_t>(published).store(sequence);
    memory_.MarkDirty(gpa, sizeof(sequence));
  }
  reference_tsc_ = value;
  return true;
}

bool SyntheticMsrs::WriteVpAssist(uint32_t vp, uint32_t, uint64_t value) {
  if ((value & hv::kMsrPageEnable) != 0 && memory_.Page(value >> kPageShift) == nullptr) {
    return false;
  }
  vp_assist_[vp] = value;
  return true;
}

bool SyntheticMsrs::WriteCrash(uint32_t, uint32_t msr, uint64_t value) {
  CrashReport report;
  {
    MutexLock lock(mutex_);
    if (msr != hv::kMsrCrashCtl) {
      crash_[msr - hv::kMsrCrashP0] = value;
      return true;
    }
    if ((value & hv::kCrashNotify) == 0) return true;
    report.parameters = crash_;
  }
  if ((value & hv::kCrashMessage) != 0) {
    const uint64_t length = std::min(report.parameters[4], CrashReport::kMaxText);
    report.text.resize(length);
    if (!memory_.Read(report.parameters[3], std::as_writable_bytes(std::span(report.text)))) {
      report.text.clear();
    }
  }
  events_.crash(std::move(report));
  return true;
}

bool SyntheticMsrs::WriteSynic(uint32_t vp, uint32_t msr, uint64_t value) {
  return synic_.WriteMsr(vp, msr, value);
}
bool SyntheticMsrs::ReadSynic(uint32_t vp, uint32_t msr, uint64_t* value) {
  return synic_.ReadMsr(vp, msr, value);
}

bool SyntheticMsrs::ReadPartition(uint32_t, uint32_t msr, uint64_t* value) {
  MutexLock lock(mutex_);
  *value = msr == hv::kMsrGuestOsId      ? guest_os_id_
           : msr == hv::kMsrHypercall    ? hypercall_
           : msr == hv::kMsrReferenceTsc ? reference_tsc_
                                         : 0;
  return true;
}

bool SyntheticMsrs::ReadVp(uint32_t vp, uint32_t msr, uint64_t* value) {
  if (msr == hv::kMsrVpIndex) {
    *value = vp;
  } else if (msr == hv::kMsrVpAssistPage) {
    *value = vp_assist_[vp];
  } else {  // VP run time: the CPU time of the thread that is this VP
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    *value =
        static_cast<uint64_t>(time.tv_sec) * 10000000 + static_cast<uint64_t>(time.tv_nsec) / 100;
  }
  return true;
}

bool SyntheticMsrs::ReadTime(uint32_t, uint32_t msr, uint64_t* value) {
  constexpr uint64_t kKvmApicHz = 1000000000;  // KVM's in-kernel APIC timer
  if (msr == hv::kMsrTimeRefCount) {
    reference_time_reads_.Add();
    *value = clock_.ReferenceTime();
  } else {
    *value = msr == hv::kMsrTscFrequency ? clock_.tsc_hz() : kKvmApicHz;
  }
  return true;
}

bool SyntheticMsrs::ReadCrash(uint32_t, uint32_t msr, uint64_t* value) {
  MutexLock lock(mutex_);
  *value = msr == hv::kMsrCrashCtl ? hv::kCrashNotify | hv::kCrashMessage
                                   : crash_[msr - hv::kMsrCrashP0];
  return true;
}

void SyntheticMsrs::DescribeTo(StatSink& sink) const {
  sink.Add("msr.reads", reads_);
  sink.Add("msr.writes", writes_);
  sink.Add("msr.reference_time_reads", reference_time_reads_);
  sink.Add("msr.rejected", rejected_);
}

}  // namespace partita
