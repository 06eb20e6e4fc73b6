#include "tools/service/api.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/control/json_fields.h"
#include "tools/host/device_messages.h"
#include "tools/service/url.h"
#include "tools/service/version.h"
#include "tools/service/view.h"

namespace partita::service {
namespace {

constexpr uint32_t kLongestWaitMs = 60'000;

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

void Answer(const Api::Exchange& exchange, const ApiError& error) {
  exchange->Reply(error.status, Body(error));
}
void Answer(const Api::Exchange& exchange, int status, const Json& json) {
  exchange->Reply(status, Dump(json));
}

// A number of a query; `otherwise` if it is not there; nullopt if it is none.
std::optional<uint64_t> Number(const HttpRequest& request, const char* name, uint64_t otherwise) {
  const auto it = request.query.find(name);
  if (it == request.query.end()) return otherwise;
  uint64_t value = 0;
  const std::string& text = it->second;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// An empty body is an empty object.
absl::StatusOr<Json> BodyOf(const HttpRequest& request) {
  if (request.body.empty()) return Json::object();
  return ParseJson(request.body);
}

}  // namespace

std::string Body(const ApiError& error) { return Dump({{"error", ToJson(error)}}); }

struct Api::Route {
  const char* method;
  std::vector<const char*> path;  // "*" is any one part
  void (Api::*handler)(const Call&);
  bool changes = true;
};

const std::vector<Api::Route>& Api::Routes() {
  static const std::vector<Route> routes = {
      {"GET", {}, &Api::Root, false},
      {"GET", {"vms"}, &Api::ListVms, false},
      {"POST", {"vms"}, &Api::CreateVm},
      {"GET", {"vms", "*"}, &Api::GetVm, false},
      {"PATCH", {"vms", "*"}, &Api::ChangeVm},
      {"DELETE", {"vms", "*"}, &Api::RemoveVm},
      {"POST", {"vms", "*", "start"}, &Api::Act},
      {"POST", {"vms", "*", "stop"}, &Api::Act},
      {"POST", {"vms", "*", "reset"}, &Api::Act},
      {"POST", {"vms", "*", "suspend"}, &Api::Act},
      {"POST", {"vms", "*", "resume"}, &Api::Act},
      {"POST", {"vms", "*", "save"}, &Api::Act},
      {"GET", {"vms", "*", "addresses"}, &Api::GetGuest, false},
      {"GET", {"vms", "*", "guest"}, &Api::GetGuest, false},
      {"GET", {"vms", "*", "integration"}, &Api::GetGuest, false},
      {"GET", {"vms", "*", "counters"}, &Api::GetGuest, false},
      {"GET", {"vms", "*", "metering"}, &Api::GetGuest, false},
      {"POST", {"vms", "*", "disks"}, &Api::AddDevice},
      {"DELETE", {"vms", "*", "disks", "*"}, &Api::RemoveDevice},
      {"POST", {"vms", "*", "adapters"}, &Api::AddDevice},
      {"DELETE", {"vms", "*", "adapters", "*"}, &Api::RemoveDevice},
      {"POST", {"vms", "*", "console"}, &Api::Console},
      {"GET", {"operations"}, &Api::ListOperations, false},
      {"GET", {"operations", "*"}, &Api::GetOperation, false},
      {"DELETE", {"operations", "*"}, &Api::CancelOperation},
      {"GET", {"events"}, &Api::GetEvents, false},
      {"GET", {"host"}, &Api::GetHost, false},
      {"POST", {"host", "stop"}, &Api::StopHost},
  };
  return routes;
}

std::optional<ApiError> Api::Denied(const HttpPeer& peer, bool changes) const {
  const auto in = [&peer](std::optional<gid_t> group) {
    return group && (peer.gid == *group || std::find(peer.groups.begin(), peer.groups.end(),
                                                     *group) != peer.groups.end());
  };
  if (peer.uid == 0 || peer.uid == access_.owner) return std::nullopt;
  if (access_.system && in(access_.admins)) return std::nullopt;
  if (access_.system && in(access_.viewers)) {
    if (!changes) return std::nullopt;
    return error::Denied("members of partita-view may look, and change nothing");
  }
  return error::Denied(access_.system ? "this service is for root and for members of the groups "
                                        "partita-admin and partita-view"
                                      : "this is another user's service; run one of your own");
}

void Api::Handle(const HttpRequest& request, const Exchange& exchange) {
  const auto parts = PathParts(request.path);
  const bool metrics = parts && parts->size() == 1 && (*parts)[0] == "metrics";
  if (!metrics && (!parts || (*parts)[0] != "v1")) {
    if (auto denied = Denied(request.peer, false)) return Answer(exchange, *denied);
    return Answer(exchange, error::NotFound("resource", request.path.substr(0, 100)));
  }
  if (metrics) {
    if (auto denied = Denied(request.peer, false)) return Answer(exchange, *denied);
    return Metrics({request, exchange, {}});
  }
  const Call call{request, exchange, Parts(parts->begin() + 1, parts->end())};
  bool known_path = false;
  for (const Route& route : Routes()) {
    if (route.path.size() != call.parts.size()) continue;
    bool same = true;
    for (size_t i = 0; i < route.path.size() && same; ++i) {
      same = std::string_view(route.path[i]) == "*" || call.parts[i] == route.path[i];
    }
    if (!same) continue;
    known_path = true;
    if (request.method != route.method) continue;
    if (auto denied = Denied(request.peer, route.changes)) return Answer(exchange, *denied);
    return (this->*route.handler)(call);
  }
  if (auto denied = Denied(request.peer, false)) return Answer(exchange, *denied);
  if (!known_path)
    return Answer(exchange, error::NotFound("resource", request.path.substr(0, 100)));
  ApiError wrong = error::Request(absl::StrCat("this resource has no ", request.method));
  wrong.status = 405;
  Answer(exchange, wrong);
}

Vm* Api::Named(const Call& call) const {
  Vm* vm = inventory_.Find(call.parts[1]);
  if (vm == nullptr) Answer(call.exchange, error::NotFound("vm", call.parts[1]));
  return vm;
}

void Api::Root(const Call& call) {
  Answer(call.exchange, 200,
         {{"name", "partita"},
          {"version", kVersion},
          {"api", kApiVersion},
          {"scope", access_.system ? "system" : "user"},
          {"extensions", Json::array({"console", "events", "metrics", "host_stop"})}});
}

void Api::ListVms(const Call& call) {
  Json vms = Json::array();
  for (const Vm* vm : inventory_.All()) vms.push_back(ToJson(*vm));
  Answer(call.exchange, 200, {{"vms", std::move(vms)}});
}

void Api::CreateVm(const Call& call) {
  const auto json = BodyOf(call.request);
  if (!json.ok()) return Answer(call.exchange, error::Request(std::string(Message(json.status()))));
  auto vm = inventory_.Create(*json);
  if (!vm.ok()) return Answer(call.exchange, vm.error());
  Answer(call.exchange, 201, ToJson(**vm));
}

void Api::GetVm(const Call& call) {
  if (const Vm* vm = Named(call)) Answer(call.exchange, 200, ToJson(*vm));
}

void Api::ChangeVm(const Call& call) {
  Vm* vm = Named(call);
  if (vm == nullptr) return;
  const auto json = BodyOf(call.request);
  if (!json.ok()) return Answer(call.exchange, error::Request(std::string(Message(json.status()))));
  auto changed = inventory_.Change(*vm, *json);
  if (!changed.ok()) return Answer(call.exchange, changed.error());
  Answer(call.exchange, 200, ToJson(**changed));
}

void Api::RemoveVm(const Call& call) {
  Vm* vm = Named(call);
  if (vm == nullptr) return;
  if (auto wrong = supervisor_.Remove(*vm)) return Answer(call.exchange, *wrong);
  call.exchange->Reply(204, "");
}

void Api::Act(const Call& call) {
  Vm* vm = Named(call);
  if (vm == nullptr) return;
  const auto json = BodyOf(call.request);
  if (!json.ok()) return Answer(call.exchange, error::Request(std::string(Message(json.status()))));
  const std::string& verb = call.parts[2];
  enum Mode : int { kShutdown, kTurnOff, kReboot };
  int mode = kShutdown;
  bool force = false;
  JsonFields fields(*json, "");
  if (verb == "stop") {
    fields.OneOf("mode", {{"shutdown", kShutdown}, {"turn_off", kTurnOff}, {"reboot", kReboot}},
                 [&](int v) { mode = v; });
    fields.Flag("force", [&](bool on) { force = on; });
  }
  if (const absl::Status wrong = fields.Finish(); !wrong.ok()) {
    return Answer(call.exchange, error::Request(std::string(Message(wrong))));
  }
  const auto act = [&]() -> Supervisor::Started {
    if (verb == "start") return supervisor_.Start(*vm);
    if (verb == "reset") return supervisor_.Reset(*vm);
    if (verb == "suspend") return supervisor_.Suspend(*vm);
    if (verb == "resume") return supervisor_.Resume(*vm);
    if (verb == "save") return supervisor_.Save(*vm);
    if (mode == kTurnOff) return supervisor_.TurnOff(*vm);
    return mode == kReboot ? supervisor_.Reboot(*vm, force) : supervisor_.Shutdown(*vm, force);
  };
  auto started = act();
  if (!started.ok()) return Answer(call.exchange, started.error());
  Answer(call.exchange, 202, ToJson(*operations_.Find(*started)));
}

void Api::GetGuest(const Call& call) {
  Vm* vm = Named(call);
  if (vm == nullptr) return;
  const std::string& what = call.parts[2];
  if (what == "integration") {
    Json services = Json::object();
    for (const auto& [name, ready] : vm->status.services) services[name] = {{"ready", ready}};
    return Answer(call.exchange, 200,
                  {{"heartbeat", vm->status.heartbeat}, {"services", std::move(services)}});
  }
  if (vm->worker == nullptr) {
    return Answer(call.exchange,
                  error::WrongState(vm->name(), Name(vm->state), "; only a running VM can be asked",
                                    "Start the VM."));
  }
  control::Request request;
  if (what == "addresses") {
    request.mutable_addresses();
  } else if (what == "guest") {
    request.mutable_key_values()->set_operation(control::KeyValues::LIST);
    request.mutable_key_values()->set_pool(2);  // what the guest says of itself
  } else {
    request.set_live_stats(true);
  }
  supervisor_.Ask(*vm, std::move(request), {},
                  [exchange = call.exchange, name = vm->name(), what, id = vm->id(),
                   this](const absl::StatusOr<control::Reply>& reply) {
                    if (!reply.ok()) {
                      return Answer(exchange,
                                    error::Guest(name, std::string(Message(reply.status()))));
                    }
                    const Vm* at = inventory_.Find(id);
                    if (what != "metering" || at == nullptr) {
                      return Answer(exchange, 200, ToJson(*reply));
                    }
                    Answer(exchange, 200, MeteringJson(*at, *reply));
                  });
}

void Api::AddDevice(const Call& call) {
  Vm* vm = Named(call);
  if (vm == nullptr) return;
  const auto json = BodyOf(call.request);
  if (!json.ok()) return Answer(call.exchange, error::Request(std::string(Message(json.status()))));
  // By way of the whole definition: what must be so across its parts is checked there.
  const char* key = call.parts[2] == "disks" ? "disks" : "adapters";
  Json whole = ToJson(vm->stored.definition);
  whole[key].push_back(*json);
  auto definition = DefinitionFromJson(whole);
  if (!definition.ok()) {
    return Answer(call.exchange, error::Definition(definition.status(), vm->name()));
  }
  if (vm->state == VmState::kOff) {
    auto changed = inventory_.Replace(*vm, *std::move(definition));
    if (!changed.ok()) return Answer(call.exchange, changed.error());
    return Answer(call.exchange, 201, ToJson(**changed));
  }
  if (vm->state != VmState::kRunning || key != std::string_view("disks")) {
    return Answer(call.exchange,
                  error::WrongState(vm->name(), Name(vm->state),
                                    "; disks can be added to one that is Off or Running, "
                                    "adapters to one that is Off"));
  }
  control::DiskDefinition disk = definition->disks(definition->disks_size() - 1);
  Vm probe;  // as if it were another VM's, to find who has it
  probe.stored.definition.add_disks()->CopyFrom(disk);
  if (auto busy = inventory_.DisksInUse(probe)) return Answer(call.exchange, *busy);
  auto file = OpenDisk(disk);
  if (!file.ok()) {
    return Answer(call.exchange, error::Host(disk.path(), std::string(Message(file.status()))));
  }
  control::Request request;
  FillDisk(disk, vm->id(), *request.mutable_add_disk()->mutable_disk());
  const int fd = file->get();
  supervisor_.Ask(
      *vm, std::move(request), std::span(&fd, 1),
      [this, exchange = call.exchange, id = vm->id(), disk,
       definition = *std::move(definition)](const absl::StatusOr<control::Reply>& reply) {
        Vm* at = inventory_.Find(id);
        if (!reply.ok() || at == nullptr) {
          return Answer(exchange, error::Guest(id, std::string(Message(reply.status()))));
        }
        for (const control::Pair& pair : reply->texts()) {
          if (pair.name() == "id") at->hot[disk.path()] = pair.value();
        }
        control::PartitionDefinition now = at->stored.definition;
        now.add_disks()->CopyFrom(disk);
        auto changed = inventory_.Replace(*at, std::move(now));
        if (!changed.ok()) return Answer(exchange, changed.error());
        Answer(exchange, 201, ToJson(**changed));
      });
}

void Api::RemoveDevice(const Call& call) {
  Vm* vm = Named(call);
  if (vm == nullptr) return;
  const bool disks = call.parts[2] == "disks";
  const auto& list = vm->stored.definition;
  const int count = disks ? list.disks_size() : list.adapters_size();
  int index = -1;
  const std::string& text = call.parts[3];
  const auto [end, wrong] = std::from_chars(text.data(), text.data() + text.size(), index);
  if (wrong != std::errc() || end != text.data() + text.size() || index < 0 || index >= count) {
    return Answer(call.exchange, error::NotFound(disks ? "disk" : "adapter", text));
  }
  const auto drop = [this, disks](Vm& from, int at, const Exchange& exchange) {
    control::PartitionDefinition changed = from.stored.definition;
    if (disks) {
      changed.mutable_disks()->DeleteSubrange(at, 1);
    } else {
      changed.mutable_adapters()->DeleteSubrange(at, 1);
    }
    auto done = inventory_.Replace(from, std::move(changed));
    if (!done.ok()) return Answer(exchange, done.error());
    Answer(exchange, 200, ToJson(**done));
  };
  if (vm->state == VmState::kOff) return drop(*vm, index, call.exchange);
  const auto hot = disks ? vm->hot.find(list.disks(index).path()) : vm->hot.end();
  if (vm->state != VmState::kRunning || hot == vm->hot.end()) {
    return Answer(call.exchange,
                  error::WrongState(vm->name(), Name(vm->state),
                                    "; only a disk that was added while it runs can leave",
                                    "Stop the VM first."));
  }
  control::Request request;
  request.mutable_remove_device()->set_id(hot->second);
  supervisor_.Ask(*vm, std::move(request), {},
                  [this, drop, exchange = call.exchange, id = vm->id(),
                   path = hot->first](const absl::StatusOr<control::Reply>& reply) {
                    Vm* at = inventory_.Find(id);
                    if (!reply.ok() || at == nullptr) {
                      return Answer(exchange,
                                    error::Guest(id, std::string(Message(reply.status()))));
                    }
                    at->hot.erase(path);
                    for (int i = 0; i < at->stored.definition.disks_size(); ++i) {
                      if (at->stored.definition.disks(i).path() == path) {
                        return drop(*at, i, exchange);
                      }
                    }
                    Answer(exchange, 200, ToJson(*at));
                  });
}

void Api::Console(const Call& call) {
  Vm* vm = Named(call);
  if (vm == nullptr) return;
  const bool write = call.request.mode == "write";
  if (call.request.upgrade != "console" ||
      (!write && call.request.mode != "read" && !call.request.mode.empty())) {
    return Answer(call.exchange,
                  error::Request("a console is asked for with the headers 'Upgrade: console' and "
                                 "'X-Partita-Mode: read' or 'write'"));
  }
  if (vm->worker == nullptr) {
    return Answer(call.exchange, error::WrongState(vm->name(), Name(vm->state),
                                                   " and has no console", "Start the VM."));
  }
  // The worker says whether there is a place before the client is told that there is. Then it gets
  // the client's own socket: a console goes on without this service.
  control::Request request;
  request.mutable_attach_console()->set_write(write);
  supervisor_.Ask(*vm, request, {},
                  [this, exchange = call.exchange, name = vm->name(), id = vm->id(),
                   request](const absl::StatusOr<control::Reply>& reply) {
                    if (!reply.ok()) {
                      ApiError busy = error::Guest(name, std::string(Message(reply.status())));
                      busy.id = "console.busy";
                      busy.category = "ResourceBusy";
                      return Answer(exchange, busy);
                    }
                    exchange->Upgrade("console", [this, id, request](const UniqueFd& client) {
                      Vm* at = inventory_.Find(id);
                      if (at == nullptr) return;
                      const int fd = client.get();
                      supervisor_.Ask(*at, request, std::span(&fd, 1), [](const auto&) {});
                    });
                  });
}

void Api::ListOperations(const Call& call) {
  Json all = Json::array();
  for (const Operation* operation : operations_.All()) all.push_back(ToJson(*operation));
  Answer(call.exchange, 200, {{"operations", std::move(all)}});
}

void Api::GetOperation(const Call& call) {
  const std::string& id = call.parts[1];
  const auto wait = Number(call.request, "wait_ms", 0);
  if (!wait) return Answer(call.exchange, error::Request("'wait_ms' must be a whole number"));
  if (operations_.Find(id) == nullptr) {
    return Answer(call.exchange, error::NotFound("operation", id));
  }
  operations_.Wait(id, static_cast<uint32_t>(std::min<uint64_t>(*wait, kLongestWaitMs)),
                   [this, id, exchange = call.exchange] {
                     const Operation* operation = operations_.Find(id);
                     if (operation == nullptr)
                       return Answer(exchange, error::NotFound("operation", id));
                     Answer(exchange, 200, ToJson(*operation));
                   });
}

void Api::CancelOperation(const Call& call) {
  const std::string& id = call.parts[1];
  if (operations_.Find(id) == nullptr) {
    return Answer(call.exchange, error::NotFound("operation", id));
  }
  if (!operations_.Cancel(id)) {
    return Answer(call.exchange, ApiError{409,
                                          "operation.not_cancellable",
                                          "InvalidOperation",
                                          id,
                                          "this operation cannot be given up",
                                          {},
                                          ""});
  }
  Answer(call.exchange, 200, ToJson(*operations_.Find(id)));
}

void Api::GetEvents(const Call& call) {
  const auto since = Number(call.request, "since", 0), follow = Number(call.request, "follow", 0);
  if (!since || !follow || *follow > 1) {
    return Answer(call.exchange, error::Request("'since' is a number and 'follow' 0 or 1"));
  }
  struct Follower {
    EventLog& log;
    uint64_t at;
    uint64_t number = 0;
    ~Follower() {
      if (number != 0) log.Unfollow(number);
    }
  };
  auto follower = std::make_shared<Follower>(Follower{events_, *since});
  const bool stays = *follow == 1;
  if (stays) {
    follower->number = events_.Follow([weak = std::weak_ptr<HttpExchange>(call.exchange)] {
      if (const auto exchange = weak.lock()) exchange->Poke();
    });
  }
  call.exchange->Stream("application/jsonl", [follower, stays]() -> std::optional<std::string> {
    std::string text = follower->log.After(follower->at, &follower->at);
    if (text.empty() && !stays) return std::nullopt;
    return text;
  });
}

void Api::GetHost(const Call& call) { Answer(call.exchange, 200, HostJson()); }

void Api::StopHost(const Call& call) {
  const auto json = BodyOf(call.request);
  uint32_t limit = 120'000;
  absl::Status wrong = json.status();
  if (wrong.ok()) {
    JsonFields fields(*json, "");
    fields.Number("limit_ms", 0, 3'600'000, [&](uint64_t n) { limit = static_cast<uint32_t>(n); });
    wrong = fields.Finish();
  }
  if (!wrong.ok()) return Answer(call.exchange, error::Request(std::string(Message(wrong))));
  Answer(call.exchange, 202, ToJson(*operations_.Find(supervisor_.StopAll(limit))));
}

void Api::Metrics(const Call& call) {
  call.exchange->Reply(200, PrometheusText(inventory_, server_, events_.last(), events_.lost()),
                       "text/plain; version=0.0.4");
}

}  // namespace partita::service
