// Dynamic memory (Linux: hv_balloon): takes pages from a running guest and gives them back, adds
// memory behind what it started with, and hears how much the guest needs. Control thread only.
//
// One operation is under way at a time; the newest target wins. Page ranges come from the guest:
// each is checked before a page is given to the host, and what is refused goes back to the guest at
// once.
#ifndef PARTITA_VSP_INTEGRATION_DYNAMIC_MEMORY_H_
#define PARTITA_VSP_INTEGRATION_DYNAMIC_MEMORY_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "vsp/integration/message_channel.h"

namespace partita::integration {

class DynamicMemory : public MessageChannel {
 public:
  // The machine's part.
  struct Host {
    uint64_t start_pages = 0;  // that the guest started with
    uint64_t max_pages = 0;    // that it may ever have; above start_pages: by hot add
    uint64_t add_gpa = 0;      // where memory that is added begins
    // Finds out which pages the host may have: RAM of the guest that nothing of the host's rests
    // on and no transfer uses. Calls `found` later, or never when the machine ends.
    using Usable = std::function<bool(uint64_t pfn)>;
    std::function<void(std::function<void(const Usable&)> found)> find_usable;
    // Gives the pages to the host; the guest would read zeroes.
    std::function<bool(uint64_t pfn, uint64_t count)> discard;
    // Makes `bytes` at `gpa` RAM of the guest.
    std::function<absl::Status(uint64_t gpa, uint64_t bytes)> add;
  };
  static constexpr uint32_t kPatienceMs = 60'000;
  // `patience_ms`: how long whoever set a target waits for a guest that brings nothing.
  DynamicMemory(EventLoop& loop, Host host, uint32_t patience_ms = kPatienceMs);

  [[nodiscard]] bool ready() const { return ready_; }
  // How much the guest is to have, in bytes. `done`: how much it has now; a guest keeps what it
  // cannot do without, so that may be more. A guest that does not answer in time ends the waiting
  // and not the operation: what it says later still counts, and the next target waits for it.
  void SetTarget(uint64_t bytes, std::function<void(absl::StatusOr<uint64_t>)> done);
  [[nodiscard]] uint64_t assigned_bytes() const;
  void DescribeTo(StatSink& sink) const;

 protected:
  void OnClosed() override;
  void OnPacket(const vmbus::Packet& packet) override;

 private:
  enum class Doing : uint8_t { kNothing, kTaking, kGiving, kAdding };
  struct Range {
    uint64_t first = 0, count = 0;
  };
  bool Send(uint16_t type, std::span<const std::byte> body);
  void Continue();
  void Take(uint64_t pages);
  void Give(uint64_t pages);
  void Add(uint64_t pages);
  void GiveNext();
  void OnTaken(std::span<const std::byte> body);
  void OnAdded(std::span<const std::byte> body);
  void Examine();
  void Accept(const Range& range, const Host::Usable& usable);
  void Refuse(const Range& range);
  void Insert(Range range);
  void Watch();
  void AwaitProgress(uint64_t milliseconds);
  // Tells whoever waits; the operation goes on.
  void Reply(absl::Status status);
  void Finish(absl::Status status);

  const Host host_;
  const uint32_t patience_ms_;
  bool ready_ = false, can_balloon_ = false, can_add_ = false;
  uint64_t alignment_pages_ = 0;  // of memory that is added
  uint32_t transaction_ = 0;
  Doing doing_ = Doing::kNothing;
  uint64_t progress_ns_ = 0;  // when the guest last brought something, on the monotonic clock
  bool watching_ = false;     // a timer runs
  uint64_t taken_in_step_ = 0;
  uint64_t target_pages_ = 0;
  std::function<void(absl::StatusOr<uint64_t>)> done_;
  std::map<uint64_t, uint64_t> ballooned_;  // first page -> count
  uint64_t ballooned_pages_ = 0, added_pages_ = 0, adding_pages_ = 0;
  uint64_t adding_for_pages_ = 0;  // the target when the block under way was added
  // The guest's answer.
  uint64_t asked_pages_ = 0;    // that it may still offer
  std::vector<Range> offered_;  // not looked at yet
  bool all_offered_ = false;
  std::shared_ptr<bool> examination_;  // while the machine looks; expires when the guest closes
  std::vector<Range> giving_;          // to be given back, as the guest takes them
  // The guest's last report, in pages.
  uint64_t available_ = 0, committed_ = 0;
  Counter reports_, refused_pages_, rejected_;
};

}  // namespace partita::integration

#endif  // PARTITA_VSP_INTEGRATION_DYNAMIC_MEMORY_H_
