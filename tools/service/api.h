// The service's resources under /v1: from a request to a call of the supervisor or the inventory
// and back to JSON. docs/api.md is the contract. One thread.
#ifndef PARTITA_TOOLS_SERVICE_API_H_
#define PARTITA_TOOLS_SERVICE_API_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tools/control/definition_json.h"
#include "tools/service/event_log.h"
#include "tools/service/http_server.h"
#include "tools/service/inventory.h"
#include "tools/service/operations.h"
#include "tools/service/supervisor.h"

namespace partita::service {

class Api {
 public:
  struct Access {
    bool system = false;  // the groups count
    uid_t owner = 0;
    std::optional<gid_t> admins, viewers;  // partita-admin, partita-view
  };
  Api(Inventory& inventory, Supervisor& supervisor, Operations& operations, EventLog& events,
      Access access)
      : inventory_(inventory),
        supervisor_(supervisor),
        operations_(operations),
        events_(events),
        access_(access) {}

  using Exchange = std::shared_ptr<HttpExchange>;
  void Handle(const HttpRequest& request, const Exchange& exchange);
  // For /metrics; may be null.
  void SetServer(const HttpServer* server) { server_ = server; }

 private:
  using Parts = std::vector<std::string>;
  struct Call {
    const HttpRequest& request;
    const Exchange& exchange;
    Parts parts;  // behind /v1
  };
  struct Route;
  static const std::vector<Route>& Routes();
  [[nodiscard]] std::optional<ApiError> Denied(const HttpPeer& peer, bool changes) const;
  // The VM that parts[1] names; answers itself if there is none.
  Vm* Named(const Call& call) const;

  void Root(const Call& call);
  void ListVms(const Call& call);
  void CreateVm(const Call& call);
  void GetVm(const Call& call);
  void ChangeVm(const Call& call);
  void RemoveVm(const Call& call);
  void Act(const Call& call);
  void GetGuest(const Call& call);
  void AddDevice(const Call& call);
  void RemoveDevice(const Call& call);
  void Console(const Call& call);
  void ListOperations(const Call& call);
  void GetOperation(const Call& call);
  void CancelOperation(const Call& call);
  void GetEvents(const Call& call);
  void GetHost(const Call& call);
  void StopHost(const Call& call);
  void Metrics(const Call& call);

  Inventory& inventory_;
  Supervisor& supervisor_;
  Operations& operations_;
  EventLog& events_;
  const Access access_;
  const HttpServer* server_ = nullptr;
};

// The body of an answer.
std::string Body(const ApiError& error);

}  // namespace partita::service

#endif  // PARTITA_TOOLS_SERVICE_API_H_
