// Start-, Stop-, Restart-, Suspend-, Resume- and Wait-VM: long work at the service.
#include <chrono>
#include <map>
#include <set>
#include <utility>

#include "tools/shell/cmdlets/cmdlets.h"
#include "tools/shell/cmdlets/vm_common.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

using std::chrono::milliseconds;
constexpr milliseconds kLook{200};  // between two looks at a machine that is waited for

bool AddressKnown(const Json& vm) { return !ArrayAt(vm, "addresses").empty(); }

// What Wait-VM and Restart-VM -Wait wait for, on one machine.
class Condition {
 public:
  Condition(std::string what, const Json& before)
      : what_(std::move(what)), uptime_(IntAt(before, "uptime_ms")) {}
  bool Holds(const Json& vm) {
    const std::string state = TextAt(vm, "state");
    if (what_ == "Heartbeat") return TextAt(vm, "heartbeat").rfind("OK", 0) == 0;
    if (what_ == "IPAddress") return AddressKnown(vm);
    if (what_ == "Reboot") {
      // Its clock begins anew.
      const int64_t uptime = IntAt(vm, "uptime_ms");
      const bool again = state == "Running" && uptime < uptime_;
      uptime_ = std::max(uptime, uptime_);
      return again;
    }
    return state == what_;
  }

 private:
  std::string what_;
  int64_t uptime_;
};

// Waits; false when Ctrl-C or an error ended it.
bool WaitFor(Context& context, const Json& vm, const std::string& what,
             std::optional<TimeSpan> limit) {
  const auto begin = std::chrono::steady_clock::now();
  Condition condition(what, vm);
  const std::string name = TextAt(vm, "name");
  for (;;) {
    const auto now = Ask(context, "GET", VmPath(vm));
    if (!now) return false;
    if (condition.Holds(*now)) {
      context.session().console().Progress("");
      return true;
    }
    const auto waited =
        std::chrono::duration_cast<milliseconds>(std::chrono::steady_clock::now() - begin);
    if (limit && waited.count() >= limit->milliseconds) {
      ErrorRecord error;
      error.id = "WaitTimedOut";
      error.category = ErrorCategory::kTimeout;
      error.target = name;
      error.message =
          name + ": no " + what + " within " + ToText(*limit) + "; it is " + TextAt(*now, "state");
      context.Error(std::move(error));
      return false;
    }
    context.session().console().Progress("waiting for " + what + " of " + name + ", " +
                                         std::to_string(waited.count() / 1000) + " s");
    if (!context.session().cancel().Sleep(kLook)) return false;
  }
}

std::optional<TimeSpan> Limit(const Bound& bound) {
  return bound.Has("Timeout") ? ToTimeSpan(bound.Get("Timeout")) : std::nullopt;
}

// A request for each machine, all waited for at the end.
class PowerCmdlet : public Cmdlet {
 public:
  using Body = std::function<Json(const Bound& bound)>;
  PowerCmdlet(std::string name, std::function<std::string(const Bound&)> verb, Body body)
      : name_(std::move(name)), verb_(std::move(verb)), body_(std::move(body)) {}

  void Process(const Bound& bound, Context& context) override {
    if (bound.Switch("Save")) {
      ErrorRecord error;
      error.id = "vm.saved_unsupported";
      error.category = ErrorCategory::kNotImplemented;
      error.message = "a machine's state cannot be saved yet";
      error.next_step = "Stop-VM without -Save shuts it down, Suspend-VM pauses it";
      return context.Terminate(std::move(error));
    }
    ForEachVm(bound, context, [&](const Json& vm) {
      if (!context.ShouldProcess(TextAt(vm, "name"), name_)) return;
      before_[TextAt(vm, "id")] = vm;
      operations_.Send(context, vm, verb_(bound), body_(bound),
                       [&](const std::string& id) { Done(bound, context, id); });
    });
  }
  void End(const Bound& bound, Context& context) override {
    if (bound.Switch("AsJob")) return operations_.MakeJob(context, name_);
    operations_.Wait(context, [&](const std::string& id) { Done(bound, context, id); });
  }

 private:
  void Done(const Bound& bound, Context& context, const std::string& id) {
    if (bound.Switch("Wait")) {
      const std::string what = bound.Has("For") ? bound.Text("For") : "Heartbeat";
      if (!WaitFor(context, before_[id], what, Limit(bound))) return;
    }
    if (!bound.Switch("PassThru")) return;
    if (const auto vm = Ask(context, "GET", "/v1/vms/" + EscapePath(id)))
      context.Write(VmObject(*vm));
  }

  std::string name_;
  std::function<std::string(const Bound&)> verb_;
  Body body_;
  Operations operations_;
  std::map<std::string, Json> before_;
};

std::function<std::unique_ptr<Cmdlet>()> Power(std::string name, std::string verb) {
  return [name = std::move(name), verb = std::move(verb)] {
    return std::make_unique<PowerCmdlet>(
        name, [verb](const Bound&) { return verb; }, [](const Bound&) { return Json(); });
  };
}

std::unique_ptr<Cmdlet> MakeStop() {
  return std::make_unique<PowerCmdlet>(
      "Stop-VM", [](const Bound&) { return "stop"; },
      [](const Bound& bound) {
        return Json{{"mode", bound.Switch("TurnOff") ? "turn_off" : "shutdown"},
                    {"force", bound.Switch("Force")}};
      });
}

std::unique_ptr<Cmdlet> MakeRestart() {
  const auto reset = [](const Bound& bound) { return EqualsFold(bound.Text("Type"), "Reset"); };
  return std::make_unique<PowerCmdlet>(
      "Restart-VM", [reset](const Bound& bound) { return reset(bound) ? "reset" : "stop"; },
      [reset](const Bound& bound) {
        if (reset(bound)) return Json();
        return Json{{"mode", "reboot"}, {"force", bound.Switch("Force")}};
      });
}

class WaitVm : public Cmdlet {
 public:
  void Process(const Bound& bound, Context& context) override {
    const std::string what = bound.Has("For") ? bound.Text("For") : "Heartbeat";
    ForEachVm(bound, context, [&](const Json& vm) {
      if (WaitFor(context, vm, what, Limit(bound)) && bound.Switch("PassThru")) {
        if (const auto now = Ask(context, "GET", VmPath(vm))) context.Write(VmObject(*now));
      }
    });
  }
};

Parameter AsJob() {
  return Flag("AsJob", "Does not wait: the work becomes a job of the session (Get-Job).");
}
Parameter For(std::vector<std::string> values) {
  return {.name = "For",
          .type = ParameterType::kEnum,
          .help = "What is waited for; Heartbeat if nothing is said.",
          .values = std::move(values)};
}
Parameter Timeout() {
  return {.name = "Timeout",
          .type = ParameterType::kTimeSpan,
          .help = "How long is waited, in seconds or as hh:mm:ss; without it without end.",
          .aliases = {"TimeoutSeconds"}};
}

CmdletInfo PowerInfo(const char* verb, const char* synopsis, const char* description,
                     std::vector<Parameter> more) {
  more.push_back(AsJob());
  more.push_back(PassThru());
  return {.verb = verb,
          .noun = "VM",
          .synopsis = synopsis,
          .description = description,
          .output_type = "VM",
          .sets = VmSets(),
          .parameters = VmParameters(true, std::move(more)),
          .should_process = true};
}

void AddStartAndStop(CmdletTable* table) {
  CmdletInfo start = PowerInfo("Start", "Starts virtual machines.",
                               "Ends when they run; several start side by side.", {});
  start.aliases = {"savm"};
  start.examples = {
      {"Start-VM web2 -PassThru | Select-Object Name,State", "Starts a machine and shows it.",
       "\nName State\n---- -----\nweb2 Running\n\n"},
      {"Start-VM web* -WhatIf", "What would be started.", ""}};
  start.make = Power("Start-VM", "start");
  table->Add(std::move(start));
  CmdletInfo stop =
      PowerInfo("Stop", "Shuts virtual machines down, or turns them off.",
                "Asks the guest through its shutdown service. -TurnOff pulls the plug.",
                {Flag("TurnOff", "At once; what the guest has not written is lost."),
                 Flag("Save", "Hyper-V's saved state, which there is not yet: an error says so."),
                 Flag("Force", "Programs in the guest that do not end are ended.")});
  stop.aliases = {"spvm"};
  stop.examples = {
      {"Get-VM | Where-Object State -eq Running | Stop-VM", "Stops all that run.", ""},
      {"Stop-VM web1 -TurnOff -PassThru | ForEach-Object State", "Without the guest.", "Off\n"}};
  stop.make = MakeStop;
  table->Add(std::move(stop));
}

}  // namespace

void AddPowerCmdlets(CmdletTable* table) {
  AddStartAndStop(table);
  CmdletInfo restart =
      PowerInfo("Restart", "Restarts virtual machines.",
                "Asks the guest to reboot; -Type Reset presses the reset button instead.",
                {{.name = "Type",
                  .type = ParameterType::kEnum,
                  .help = "Reboot asks the guest, Reset does not.",
                  .values = {"Reboot", "Reset"}},
                 Flag("Force", "Programs in the guest that do not end are ended."),
                 Flag("Wait", "Ends when it is there again."),
                 For({"Heartbeat", "IPAddress"}),
                 Timeout()});
  restart.examples = {{"Restart-VM web1 -Type Reset -PassThru | ForEach-Object State",
                       "The reset button.", "Running\n"}};
  restart.make = MakeRestart;
  table->Add(std::move(restart));
  CmdletInfo suspend =
      PowerInfo("Suspend", "Pauses virtual machines.", "Their processors stand still.", {});
  suspend.examples = {
      {"Suspend-VM web1 -PassThru | ForEach-Object State", "A machine stands still.", "Paused\n"}};
  suspend.make = Power("Suspend-VM", "suspend");
  table->Add(std::move(suspend));
  CmdletInfo resume =
      PowerInfo("Resume", "Lets paused virtual machines go on.", "Where they stood.", {});
  resume.examples = {{"Suspend-VM web1; Resume-VM web1 -PassThru | ForEach-Object State",
                      "And goes on.", "Running\n"}};
  resume.make = Power("Resume-VM", "resume");
  table->Add(std::move(resume));
  table->Add({.verb = "Wait",
              .noun = "VM",
              .synopsis = "Waits until something is true of virtual machines.",
              .description = "A heartbeat, an address, a reboot, or a state.",
              .output_type = "VM",
              .sets = VmSets(),
              .parameters = VmParameters(
                  true, {For({"Heartbeat", "IPAddress", "Reboot", "Running", "Off", "Paused"}),
                         Timeout(), PassThru()}),
              .examples = {{"Wait-VM web1 -For IPAddress -Timeout 60 -PassThru | ForEach-Object "
                            "IPAddresses",
                            "What a deployment script waits for.", "192.0.2.7\n"}},
              .make = MakeCmdlet<WaitVm>});
}

}  // namespace partita::shell
