#include "tests/fakes/fake_service.h"

#include <microhttpd.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace partita {
namespace {

using nlohmann::json;

json Machine(const std::string& name, bool running, int number) {
  json vm = {{"id", "00000000-0000-4000-8000-00000000000" + std::to_string(number)},
             {"name", name},
             {"state", running ? "Running" : "Off"},
             {"status", "Operating normally"},
             {"critical", false},
             {"uptime_ms", running ? 3723000 : 0},
             {"memory_assigned_bytes", running ? 512 << 20 : 0},
             {"memory_demand_bytes", running ? 300 << 20 : 0},
             {"cpu_usage_percent", running ? 7 : 0},
             {"heartbeat", running ? "OK" : ""},
             {"addresses", running ? json{"192.0.2.7"} : json::array()},
             {"created", "2026-11-25T01:02:03Z"},
             {"worker", nullptr},
             {"last_end", nullptr},
             {"generation", 1},
             {"version", "1.0"}};
  if (running) vm["worker"] = {{"pid", 4711}, {"backend", "user"}, {"rss_bytes", 5 << 20}};
  vm["definition"] = {
      {"schema", 1},
      {"name", name},
      {"notes", ""},
      {"memory",
       {{"startup_bytes", 512 << 20}, {"minimum_bytes", 256 << 20}, {"maximum_bytes", 1 << 30}}},
      {"processors", {{"count", 2}}},
      {"boot", {{"kernel", "/boot/vmlinuz"}}},
      {"disks", {{{"path", "/srv/" + name + ".raw"}, {"cache", "writeback"}}}},
      {"adapters",
       {{{"name", "Network Adapter"}, {"switch", "lan"}, {"mac", "02:15:5d:00:00:01"}}}},
      {"actions", {{"automatic_start", "Nothing"}, {"automatic_stop", "TurnOff"}}}};
  return vm;
}

void SetState(json* vm, const std::string& state) {
  const json fresh = Machine((*vm)["name"], state != "Off", 0);
  for (const char* key : {"uptime_ms", "memory_assigned_bytes", "heartbeat", "addresses", "worker"})
    (*vm)[key] = fresh[key];
  (*vm)["state"] = state;
}

json Error(const std::string& id, const std::string& category, const std::string& target,
           const std::string& message, const std::string& next_step = "") {
  return {{"error",
           {{"id", id},
            {"category", category},
            {"target", target},
            {"message", message},
            {"cause", json::array()},
            {"next_step", next_step}}}};
}

struct Answer {
  int status = 200;
  json body;
};

std::vector<std::string> Split(const std::string& path) {
  std::vector<std::string> parts;
  for (size_t at = 1; at <= path.size();) {
    const size_t end = std::min(path.find('/', at), path.size());
    parts.push_back(path.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

struct Upload {
  std::string body;
};

}  // namespace

struct FakeService::State {
  mutable std::mutex mutex;
  std::condition_variable changed;
  MHD_Daemon* daemon = nullptr;
  std::string socket;
  std::map<std::string, json> vms;
  std::map<std::string, json> operations;
  std::vector<std::string> requests;
  std::string typed;
  bool held = false;
  bool ending = false;
  int failure_status = 0;
  json failure;

  void Fill() {
    vms.clear();
    vms["web1"] = Machine("web1", true, 1);
    vms["web2"] = Machine("web2", false, 2);
    operations.clear();
    requests.clear();
  }

  json* Find(const std::string& key) {
    for (auto& [name, vm] : vms) {
      if (name == key || vm["id"] == key) return &vm;
    }
    return nullptr;
  }
  Answer Operate(json* vm, const std::string& verb, const json& body);
  Answer Devices(json* vm, const std::vector<std::string>& parts, const std::string& method,
                 const json& body);
  Answer OneMachine(const std::string& method, const std::vector<std::string>& parts,
                    const json& body);
  Answer Machines(const std::string& method, const json& body);
  Answer Operation(const std::string& method, const std::string& id, bool wait,
                   std::unique_lock<std::mutex>* lock);
  Answer Handle(const std::string& method, const std::string& path, bool wait, const json& body);
};

Answer FakeService::State::Operate(json* vm, const std::string& verb, const json& body) {
  const std::string state = (*vm)["state"];
  const std::string name = (*vm)["name"];
  const std::string mode = body.value("mode", "");
  const bool needs_off = verb == "start";
  if (needs_off != (state == "Off") ||
      (verb == "resume") != (state == "Paused" && verb != "stop")) {
    return {409, Error("vm.wrong_state", "InvalidOperation", name,
                       name + " is " + state + " and cannot " + verb,
                       state == "Off" ? "start it first" : "stop it first")};
  }
  if (verb == "stop" && mode != "reboot") SetState(vm, "Off");
  if (verb == "start" || verb == "resume" || verb == "reset" || mode == "reboot")
    SetState(vm, "Running");
  if (verb == "suspend") SetState(vm, "Paused");
  const std::string id = "op-" + std::to_string(operations.size() + 1);
  operations[id] = {{"id", id},
                    {"kind", verb},
                    {"vm_id", (*vm)["id"]},
                    {"state", held ? "running" : "succeeded"},
                    {"progress_percent", held ? 40 : 100},
                    {"error", nullptr},
                    {"started", "2026-11-25T01:02:03Z"},
                    {"ended", nullptr}};
  json begun = operations[id];
  begun["state"] = "running";
  return {202, begun};
}

Answer FakeService::State::Devices(json* vm, const std::vector<std::string>& parts,
                                   const std::string& method, const json& body) {
  json& list = (*vm)["definition"][parts[3]];
  if (method == "POST") {
    list.push_back(body);
    return {200, *vm};
  }
  const size_t n = parts.size() > 4 ? std::stoul(parts[4]) : list.size();
  if (method != "DELETE" || n >= list.size())
    return {404, Error("disk.not_found", "ObjectNotFound", parts[2], "there is no such device")};
  list.erase(n);
  return {200, *vm};
}

Answer FakeService::State::OneMachine(const std::string& method,
                                      const std::vector<std::string>& parts, const json& body) {
  json* vm = Find(parts[2]);
  if (vm == nullptr)
    return {404,
            Error("vm.not_found", "ObjectNotFound", parts[2], "there is no vm '" + parts[2] + "'")};
  const std::string name = (*vm)["name"];
  const std::string what = parts.size() > 3 ? parts[3] : "";
  if (what == "disks" || what == "adapters") return Devices(vm, parts, method, body);
  if (what == "integration")
    return {200,
            {{"heartbeat", "OK"},
             {"services", {{"heartbeat", {{"ready", true}}}, {"kvp", {{"ready", false}}}}}}};
  if (what == "guest") return {200, {{"OSName", "Debian GNU/Linux"}, {"OSVersion", "12"}}};
  if (what == "counters") return {200, {{"vmbus", {{"messages", 42}}}}};
  if (what == "metering")
    return {200,
            {{"uptime_ms", 3723000},
             {"cpu_ms", 125000},
             {"memory_assigned_bytes", 512 << 20},
             {"memory_demand_bytes", 300 << 20},
             {"disk_read_bytes", 64 << 20},
             {"disk_written_bytes", 32 << 20},
             {"network_received_bytes", 12 << 20},
             {"network_sent_bytes", 3 << 20}}};
  if (!what.empty()) return Operate(vm, what, body);
  if (method == "GET") return {200, *vm};
  if (method == "DELETE") {
    if ((*vm)["state"] != "Off")
      return {409, Error("vm.wrong_state", "InvalidOperation", name,
                         name + " is " + std::string((*vm)["state"]) + " and cannot be removed",
                         "stop it first")};
    vms.erase(name);
    return {204, nullptr};
  }
  json patched = *vm;
  patched["definition"].merge_patch(body);
  patched["name"] = patched["definition"]["name"];
  vms.erase(name);
  vms[patched["name"]] = patched;
  return {200, patched};
}

Answer FakeService::State::Machines(const std::string& method, const json& body) {
  if (method == "GET") {
    json all = json::array();
    for (const auto& [name, vm] : vms) all.push_back(vm);
    return {200, {{"vms", all}}};
  }
  const std::string name = body.value("name", "");
  if (vms.contains(name))
    return {409,
            Error("vm.exists", "ResourceExists", name, "there is a vm '" + name + "' already")};
  json vm = Machine(name, false, static_cast<int>(vms.size()) + 1);
  vm["definition"].merge_patch(body);
  vms[name] = vm;
  return {201, vm};
}

Answer FakeService::State::Operation(const std::string& method, const std::string& id, bool wait,
                                     std::unique_lock<std::mutex>* lock) {
  if (!operations.contains(id))
    return {404, Error("operation.not_found", "ObjectNotFound", id, "there is no such operation")};
  if (method == "DELETE") {
    operations[id]["state"] = "cancelled";
    changed.notify_all();
  }
  if (wait) {
    changed.wait_for(*lock, std::chrono::seconds(10),
                     [&] { return ending || operations[id]["state"] != "running"; });
  }
  return {200, operations[id]};
}

Answer FakeService::State::Handle(const std::string& method, const std::string& path, bool wait,
                                  const json& body) {
  std::unique_lock<std::mutex> lock(mutex);
  requests.push_back(method + " " + path);
  if (failure_status != 0) return {failure_status, failure};
  const std::vector<std::string> parts = Split(path);
  if (parts.size() == 1)
    return {200, {{"name", "partita"}, {"version", "0"}, {"api", 1}, {"scope", "user"}}};
  if (parts[1] == "host") return {200, {{"kvm", true}, {"cpus", 2}, {"memory_bytes", 1 << 30}}};
  if (parts[1] == "vms") {
    return parts.size() == 2 ? Machines(method, body) : OneMachine(method, parts, body);
  }
  if (parts[1] == "operations" && parts.size() == 3)
    return Operation(method, parts[2], wait, &lock);
  return {404, Error("request.invalid", "InvalidArgument", path, "there is no such resource")};
}

namespace {

MHD_Result Reply(MHD_Connection* connection, int status, const std::string& text) {
  MHD_Response* response = MHD_create_response_from_buffer(
      text.size(), const_cast<char*>(text.data()), MHD_RESPMEM_MUST_COPY);  // it is copied
  const MHD_Result result = MHD_queue_response(connection, static_cast<unsigned>(status), response);
  MHD_destroy_response(response);
  return result;
}

}  // namespace

// Called by libmicrohttpd in threads of its own, one for each connection.
struct FakeServiceCallbacks {
  using State = FakeService::State;

  static void Console(void* self, MHD_Connection* /*connection*/, void* /*request*/,
                      const char* /*extra*/, size_t /*size*/, MHD_socket socket,
                      MHD_UpgradeResponseHandle* handle) {
    auto* state = static_cast<State*>(self);
    const std::string greeting = "web1 login: ";
    send(socket, greeting.data(), greeting.size(), MSG_NOSIGNAL);
    std::array<char, 256> buffer{};
    for (;;) {
      pollfd readable{socket, POLLIN, 0};  // libmicrohttpd's sockets do not wait
      poll(&readable, 1, -1);
      const ssize_t got = recv(socket, buffer.data(), buffer.size(), 0);
      if (got <= 0) break;
      send(socket, buffer.data(), static_cast<size_t>(got), MSG_NOSIGNAL);
      const std::lock_guard<std::mutex> lock(state->mutex);
      state->typed.append(buffer.data(), static_cast<size_t>(got));
    }
    MHD_upgrade_action(handle, MHD_UPGRADE_ACTION_CLOSE);
  }
  // Who only reads sees the greeting, and the guest's end.
  static void ReadOnlyConsole(void* /*self*/, MHD_Connection* /*connection*/, void* /*request*/,
                              const char* /*extra*/, size_t /*size*/, MHD_socket socket,
                              MHD_UpgradeResponseHandle* handle) {
    const std::string greeting = "web1 login: ";
    send(socket, greeting.data(), greeting.size(), MSG_NOSIGNAL);
    MHD_upgrade_action(handle, MHD_UPGRADE_ACTION_CLOSE);
  }

  static ssize_t NoMoreEvents(void* self, uint64_t /*position*/, char* /*buffer*/,
                              size_t /*size*/) {
    auto* state = static_cast<State*>(self);
    std::unique_lock<std::mutex> lock(state->mutex);
    state->changed.wait(lock, [&] { return state->ending; });
    return MHD_CONTENT_READER_END_OF_STREAM;
  }
  static ssize_t SomeEvents(void* self, uint64_t position, char* buffer, size_t size) {
    static const std::string kLines =
        "{\"seq\":1,\"time\":\"2026-11-25T01:02:03Z\",\"type\":\"vm.state\",\"vm_id\":\"1\","
        "\"vm_name\":\"web1\",\"message\":\"web1 is starting\"}\n"
        "{\"seq\":2,\"time\":\"2026-11-25T01:02:04Z\",\"type\":\"vm.state\",\"vm_id\":\"1\","
        "\"vm_name\":\"web1\",\"message\":\"web1 is running\"}\n";
    if (position >= kLines.size())
      return self == nullptr ? MHD_CONTENT_READER_END_OF_STREAM
                             : NoMoreEvents(self, position, buffer, size);
    const size_t count = std::min(size, kLines.size() - position);
    std::memcpy(buffer, kLines.data() + position, count);
    return static_cast<ssize_t>(count);
  }
  static MHD_Result Events(State* state, MHD_Connection* connection) {
    const char* follow = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "follow");
    const bool goes_on = follow != nullptr && std::string(follow) == "1";
    MHD_Response* response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, &SomeEvents,
                                                               goes_on ? state : nullptr, nullptr);
    const MHD_Result result = MHD_queue_response(connection, 200, response);
    MHD_destroy_response(response);
    return result;
  }

  static MHD_Result Request(void* self, MHD_Connection* connection, const char* url,
                            const char* method, const char* /*version*/, const char* data,
                            size_t* size, void** request) {
    auto* state = static_cast<State*>(self);
    if (*request == nullptr) {
      *request = new Upload();
      return MHD_YES;
    }
    auto* upload = static_cast<Upload*>(*request);
    if (*size > 0) {
      upload->body.append(data, *size);
      *size = 0;
      return MHD_YES;
    }
    const std::string path = url;
    if (path == "/v1/events") return Events(state, connection);
    if (path.ends_with("/console")) {
      const char* mode = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "X-Partita-Mode");
      const bool reads = mode != nullptr && std::string(mode) == "read";
      MHD_Response* response =
          MHD_create_response_for_upgrade(reads ? &ReadOnlyConsole : &Console, state);
      MHD_add_response_header(response, MHD_HTTP_HEADER_UPGRADE, "console");
      const MHD_Result result = MHD_queue_response(connection, 101, response);
      MHD_destroy_response(response);
      return result;
    }
    const bool wait =
        MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "wait_ms") != nullptr;
    const json body =
        upload->body.empty() ? json::object() : json::parse(upload->body, nullptr, false);
    const Answer answer = state->Handle(method, path, wait, body);
    return Reply(connection, answer.status, answer.body.is_null() ? "" : answer.body.dump());
  }
  static void Completed(void* /*self*/, MHD_Connection* /*connection*/, void** request,
                        MHD_RequestTerminationCode /*code*/) {
    delete static_cast<Upload*>(*request);
    *request = nullptr;
  }
};

FakeService::FakeService(const std::string& socket_path) : state_(std::make_unique<State>()) {
  state_->Fill();
  state_->socket = socket_path;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_path.size() >= sizeof(address.sun_path)) std::abort();
  std::memcpy(address.sun_path, socket_path.data(), socket_path.size());
  unlink(socket_path.c_str());
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(listener, 64) != 0) {
    perror("fake service");
    std::abort();
  }
  state_->daemon = MHD_start_daemon(
      MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_ALLOW_UPGRADE, 0,
      nullptr, nullptr, &FakeServiceCallbacks::Request, state_.get(), MHD_OPTION_LISTEN_SOCKET,
      listener, MHD_OPTION_NOTIFY_COMPLETED, &FakeServiceCallbacks::Completed, state_.get(),
      MHD_OPTION_END);
  if (state_->daemon == nullptr) std::abort();
}

FakeService::~FakeService() {
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->ending = true;
  }
  state_->changed.notify_all();
  MHD_stop_daemon(state_->daemon);
  unlink(state_->socket.c_str());
}

void FakeService::Reset() {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->Fill();
}

void FakeService::AddMachines(int count) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  for (int i = 0; i < count; ++i) {
    std::string number = std::to_string(1000 + i).substr(1);
    json vm = Machine("vm" + number, false, 9);
    vm["id"] = "00000000-0000-4000-8000-000000001" + number;
    state_->vms["vm" + number] = vm;
  }
}

void FakeService::HoldOperations(bool held) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->held = held;
  if (held) return;
  for (auto& [id, operation] : state_->operations) {
    if (operation["state"] == "running") operation["state"] = "succeeded";
  }
  state_->changed.notify_all();
}

void FakeService::FailWith(int status, nlohmann::json error) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->failure_status = status;
  state_->failure = std::move(error);
}

std::vector<std::string> FakeService::requests() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->requests;
}

nlohmann::json FakeService::machine(const std::string& name) const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  json* vm = state_->Find(name);
  return vm == nullptr ? json() : *vm;
}

std::string FakeService::typed() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->typed;
}

}  // namespace partita
