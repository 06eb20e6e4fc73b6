// A synthetic network adapter: NVSP and RNDIS towards the guest, a backend with as many queues as
// channels towards the host, one loop thread for each open channel.
//
// The adapter belongs to the control thread; a NetworkChannel to its own loop thread. What channels
// share (the buffers, whether frames are wanted) is a Session, made by the primary's loop when the
// guest has named its buffers.
#ifndef PARTITA_VSP_NETWORK_NETWORK_VSP_H_
#define PARTITA_VSP_NETWORK_NETWORK_VSP_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "base/counters.h"
#include "base/mutex.h"
#include "vmbus/server/vmbus_server.h"
#include "vsp/network/net_backend.h"
#include "vsp/network/port_policy.h"
#include "vsp/network/rndis.h"
#include "vsp/network/shared_buffer.h"

namespace partita::network {

class NetworkChannel;

struct NetworkCounters {
  Counter sent, sent_bytes, send_errors, received, received_bytes, no_sections, unwanted, oversize,
      large_sent, large_received;
  Counter bad_packets, bad_frames, bad_offloads, wrong_state, bad_completions, wrong_vlan;
  Counter foreign_source, reserved_group, dhcp_server, router, control_waited, control_lost;
  Counter system_calls, loop_wakes;
  RndisCounters control;
  void DescribeTo(StatSink& sink) const;
};

// What lies between the guest naming its buffers and its taking them back.
struct Session {
  // On loan until nothing of the host's moves in the buffers: who holds a session holds them.
  std::shared_ptr<const vmbus::Gpadl> receive_pages, send_pages;
  std::unique_ptr<SharedBuffer> receive;
  std::shared_ptr<SharedBuffer> send;
  std::unique_ptr<SectionPool> sections;
  uint32_t section_size = 0;            // of the receive buffer
  uint32_t plain_bytes = 0;             // of a frame that is not coalesced, and some to spare
  uint32_t section_batch = 1;           // that a channel takes from the pool at a time
  uint32_t sections_per_large = 1;      // sections that a coalesced frame may need
  uint32_t slots = 1, large_slots = 1;  // frames a channel may wait for at a time
  bool vlan = false;                    // the guest takes tags beside the frame
  // Guest memory in use by I/O ends with the session: it stays until the last channel lets go.
};

class NetworkVsp : public vmbus::ChannelDevice {
 public:
  struct Options {
    vmbus::Guid instance{};
    MacAddress mac{};
    uint32_t queues = 1;  // channels, at most the backend's queues
    uint16_t vlan = 0;    // access mode: the wire's frames carry this tag, the guest's none
    bool shares_cpus = false;
    PortOptions port = {};
    std::string name;  // for messages
    // Called from any thread with something a user should see.
    std::function<void(std::string)> notice = nullptr;
  };
  NetworkVsp(Options options, std::unique_ptr<NetBackend> backend);
  ~NetworkVsp() override;

  void Connect(vmbus::VmbusServer& server) { server_ = &server; }
  // Any thread. A wire that is gone for good stays down.
  void SetLink(bool up);

  // vmbus::ChannelDevice
  [[nodiscard]] vmbus::OfferParameters offer() const override;
  [[nodiscard]] uint32_t max_packet() const override;
  bool OnOpen(const vmbus::OpenRequest& request,
              std::shared_ptr<vmbus::ServerChannel> channel) override;
  void OnClose(uint32_t relid, std::function<void()> done) override;
  void OnLetGo(uint32_t relid) override;
  void CountPages(const std::shared_ptr<vmbus::PageCensus>& census) override;

  // Used by NetworkChannel, any thread.
  [[nodiscard]] const Options& options() const { return options_; }
  [[nodiscard]] NetBackend& backend() { return *backend_; }
  [[nodiscard]] NetworkCounters& counters() { return counters_; }
  [[nodiscard]] AdapterFeatures features() const;
  [[nodiscard]] AdapterTotals totals() const;
  void RequestSubChannels(uint32_t primary, uint32_t count);
  // Calls `found` on the control thread.
  void FindGpadl(uint32_t relid, uint32_t handle,
                 std::function<void(std::shared_ptr<const vmbus::Gpadl>)> found);
  // What channels go by. One look at all of it: a guest that has been told of its link must not
  // have its frames judged by the filter of before.
  struct Flow {
    uint32_t generation = 0;
    bool link_up = true, coalesced = false;
    ReceiveFilter filter;
    std::shared_ptr<const Session> session;
  };
  [[nodiscard]] Flow flow();
  // That of the newest Flow; without a lock, to see whether there is another one.
  [[nodiscard]] uint32_t generation() const { return generation_.load(); }
  void SetSession(std::shared_ptr<const Session> session);
  // What the guest wants: its packet filter (0: no frames), large frames, its address.
  void SetFlow(uint32_t packet_filter, bool coalesced, const MacAddress& own);
  void StopFlow() { SetFlow(0, false, options_.mac); }
  [[nodiscard]] bool link_up() const { return link_up_.load(std::memory_order_relaxed); }

  void DescribeTo(StatSink& sink) const;

 private:
  // Publishes a new Flow and wakes the loops.
  void Changed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  const Options options_;
  const std::unique_ptr<NetBackend> backend_;
  vmbus::VmbusServer* server_ = nullptr;
  void OnWireGone(const std::string& why);
  Mutex mutex_;
  std::atomic<bool> link_up_ = true;      // written under mutex_
  std::atomic<uint32_t> generation_ = 1;  // written under mutex_
  bool coalesced_ ABSL_GUARDED_BY(mutex_) = false;
  uint32_t packet_filter_ ABSL_GUARDED_BY(mutex_);
  MacAddress own_ ABSL_GUARDED_BY(mutex_);
  bool wire_gone_ ABSL_GUARDED_BY(mutex_) = false;
  ReceiveFilter filter_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const Session> session_ ABSL_GUARDED_BY(mutex_);
  // By relid, from the open to OnLetGo; guarded because any loop may wake the others.
  std::map<uint32_t, std::unique_ptr<NetworkChannel>> channels_ ABSL_GUARDED_BY(mutex_);
  NetworkCounters counters_;
};

}  // namespace partita::network

#endif  // PARTITA_VSP_NETWORK_NETWORK_VSP_H_
