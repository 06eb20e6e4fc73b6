#include "tools/shell/cmdlets/vm_common.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "tools/control/nearest.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

class EachVmCmdlet : public Cmdlet {
 public:
  explicit EachVmCmdlet(VmAction action) : action_(action) {}
  void Process(const Bound& bound, Context& context) override {
    ForEachVm(bound, context, [&](const Json& vm) { action_(bound, context, vm); });
  }

 private:
  VmAction action_;
};

const std::string* NameOf(const Json& vm) { return vm.at("name").get_ptr<const std::string*>(); }

// The names, nearest first thing to say when one is not there.
ErrorRecord WithNearest(ErrorRecord error, const std::string& typed, const Json& all) {
  std::vector<std::string> known;
  for (const Json& vm : all) known.push_back(Lower(*NameOf(vm)));
  const std::string near = Nearest(Lower(typed), known);
  for (const Json& vm : all) {
    if (!near.empty() && Lower(*NameOf(vm)) == near)
      error.next_step = "did you mean " + *NameOf(vm) + "?";
  }
  return error;
}

// Machines whose answer has what everything here relies on.
Json AllVms(Context& context) {
  Json out = Json::array();
  const auto answer = Ask(context, "GET", "/v1/vms");
  if (!answer) return out;
  for (const Json& vm : ArrayAt(*answer, "vms")) {
    if (!TextAt(vm, "name").empty() && !TextAt(vm, "id").empty()) out.push_back(vm);
  }
  return out;
}

void UseById(Context& context, const std::string& id, const std::function<void(const Json&)>& use) {
  if (const auto vm = Ask(context, "GET", "/v1/vms/" + EscapePath(id))) use(*vm);
}

void UseByName(Context& context, const std::string& pattern,
               const std::function<void(const Json&)>& use) {
  if (!HasWildcard(pattern)) {
    Service* service = context.session().service();
    Result<Json> vm = service == nullptr ? Result<Json>(Session::NoService())
                                         : service->Call("GET", "/v1/vms/" + EscapePath(pattern));
    if (vm.ok()) return use(*vm);
    if (vm.error().category != ErrorCategory::kNotFound)
      return context.Error(std::move(vm.error()));
    // Names have no case here, whatever they have there.
    const Json all = AllVms(context);
    for (const Json& one : all) {
      if (EqualsFold(*NameOf(one), pattern)) return use(one);
    }
    return context.Error(WithNearest(std::move(vm.error()), pattern, all));
  }
  for (const Json& vm : AllVms(context)) {
    if (context.stopped()) return;
    if (WildcardMatch(pattern, *NameOf(vm))) use(vm);
  }
}

}  // namespace

std::vector<std::string> VmSets() { return {"Name", "VM", "Id"}; }

std::vector<Parameter> VmParameters(bool mandatory, std::vector<Parameter> more) {
  std::vector<Parameter> out = {{.name = "Name",
                                 .help = "Names of virtual machines; wildcards are welcome.",
                                 .position = 0,
                                 .mandatory = mandatory,
                                 .array = true,
                                 .from_pipeline = true,
                                 .from_property = true,
                                 .aliases = {"VMName"},
                                 .sets = {"Name"},
                                 .completer = "VM"},
                                {.name = "VM",
                                 .type = ParameterType::kObject,
                                 .help = "Objects as Get-VM gives them.",
                                 .position = 0,
                                 .mandatory = true,
                                 .array = true,
                                 .from_pipeline = true,
                                 .sets = {"VM"},
                                 .object_type = "VM"},
                                {.name = "Id",
                                 .help = "Identities of virtual machines.",
                                 .mandatory = true,
                                 .array = true,
                                 .sets = {"Id"}}};
  std::move(more.begin(), more.end(), std::back_inserter(out));
  return out;
}

std::vector<Parameter> DeviceParameters(std::vector<Parameter> more) {
  std::vector<Parameter> out = VmParameters(true, std::move(more));
  out.front().name = "VMName";
  out.front().aliases.clear();
  return out;
}

Parameter Flag(std::string name, std::string help) {
  return {.name = std::move(name), .type = ParameterType::kSwitch, .help = std::move(help)};
}

Parameter PassThru() { return Flag("PassThru", "Passes on what it was done to."); }

std::optional<Json> Ask(Context& context, std::string_view method, const std::string& path,
                        const Json& body) {
  Service* service = context.session().service();
  if (service == nullptr) {
    context.Error(Session::NoService());
    return std::nullopt;
  }
  Result<Json> answer = service->Call(method, path, body);
  if (answer.ok()) return std::move(*answer);
  context.Error(std::move(answer.error()));
  return std::nullopt;
}

std::string VmPath(const Json& vm, std::string_view rest) {
  return "/v1/vms/" + EscapePath(TextAt(vm, "id")) + std::string(rest);
}

void ForEachVm(const Bound& bound, Context& context, const std::function<void(const Json&)>& use) {
  if (bound.Has("VM")) {
    for (const Value& vm : bound.Values("VM")) {
      if (context.stopped()) return;
      UseById(context, ToText(Member(vm, "Id")), use);
    }
    return;
  }
  if (bound.Has("Id")) {
    for (const std::string& id : bound.Texts("Id")) {
      if (!context.stopped()) UseById(context, id, use);
    }
    return;
  }
  const char* parameter = bound.Has("VMName") ? "VMName" : "Name";
  std::vector<std::string> names = bound.Texts(parameter);
  if (!bound.Has(parameter)) names.emplace_back("*");
  for (const std::string& name : names) {
    if (context.stopped()) return;
    UseByName(context, name, use);
  }
}

std::function<std::unique_ptr<Cmdlet>()> EachVm(VmAction action) {
  return [action] { return std::make_unique<EachVmCmdlet>(action); };
}

std::optional<Json> WaitForOperation(Context& context, const std::string& id,
                                     const std::string& what) {
  constexpr const char* kWait = "?wait_ms=10000";
  for (;;) {
    auto operation = Ask(context, "GET", "/v1/operations/" + EscapePath(id) + kWait);
    if (!operation || TextAt(*operation, "state") != "running") return operation;
    const int64_t percent = IntAt(*operation, "progress_percent");
    context.session().console().Progress(what + " " + std::to_string(percent) + " %");
  }
}

void Operations::Send(Context& context, const Json& vm, std::string_view verb, const Json& body,
                      const Done& done) {
  if (running_.size() >= kMaxRunning) WaitForOldest(context, done);
  std::string rest = "/";
  rest += verb;
  const auto operation = Ask(context, "POST", VmPath(vm, rest), body);
  if (!operation) return;
  running_.push_back({TextAt(*operation, "id"), TextAt(vm, "id"), TextAt(vm, "name")});
  ++sent_;
}

void Operations::WaitForOldest(Context& context, const Done& done) {
  const Running oldest = running_.front();
  running_.pop_front();
  std::string what = oldest.vm_name;
  if (sent_ > 1) {
    what += " (" + std::to_string(sent_ - running_.size()) + " of " + std::to_string(sent_) + ")";
  }
  context.session().console().Progress(what);
  const auto operation = WaitForOperation(context, oldest.id, what);
  context.session().console().Progress("");
  if (!operation) {
    if (context.session().cancelled()) {
      context.session().Note("the service goes on with " + oldest.vm_name);
    }
    return;
  }
  if (TextAt(*operation, "state") == "succeeded") return done(oldest.vm_id);
  ErrorRecord error;
  if (operation->contains("error") && (*operation)["error"].is_object()) {
    error = ErrorFrom((*operation)["error"], 200);
  } else {
    error.id = "operation." + TextAt(*operation, "state");
    error.message = TextAt(*operation, "kind") + " was " + TextAt(*operation, "state");
  }
  if (error.target.empty()) error.target = oldest.vm_name;
  context.Error(std::move(error));
}

void Operations::Wait(Context& context, const Done& done) {
  while (!running_.empty() && !context.stopped()) WaitForOldest(context, done);
  running_.clear();
}

std::string AbsolutePath(const std::string& path) {
  if (path.empty() || path.front() == '/') return path;
  std::error_code error;
  const auto folder = std::filesystem::current_path(error);
  return error ? path : (folder / path).lexically_normal().string();
}

}  // namespace partita::shell
