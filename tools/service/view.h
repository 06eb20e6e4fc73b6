// The service's resources as JSON and as Prometheus text.
#ifndef PARTITA_TOOLS_SERVICE_VIEW_H_
#define PARTITA_TOOLS_SERVICE_VIEW_H_

#include <string>

#include "tools/control/control.pb.h"
#include "tools/control/definition_json.h"
#include "tools/service/http_server.h"
#include "tools/service/inventory.h"
#include "tools/service/operations.h"
#include "tools/service/vm.h"

namespace partita::service {

using partita::ToJson;

Json ToJson(const ApiError& error);
Json ToJson(const Operation& operation);
Json ToJson(const Vm& vm);
Json HostJson();
// A reply of a worker: texts and numbers, by name.
Json ToJson(const control::Reply& reply);
// What a VM has used, from its status and its worker's counters.
Json MeteringJson(const Vm& vm, const control::Reply& counters);
// `server` may be null.
std::string PrometheusText(const Inventory& inventory, const HttpServer* server, uint64_t events,
                           uint64_t events_lost);

}  // namespace partita::service

#endif  // PARTITA_TOOLS_SERVICE_VIEW_H_
