// Get-, Wait-, Receive- and Stop-Job: work that -AsJob left to the service.
#include <algorithm>
#include <utility>

#include "tools/shell/cmdlets/cmdlets.h"
#include "tools/shell/cmdlets/vm_common.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

constexpr size_t kMaxJobs = 1000;

bool Running(const Job::Part& part) { return part.state == "running"; }

std::string StateOf(const Job& job) {
  const auto any = [&](std::string_view state) {
    return std::any_of(job.parts.begin(), job.parts.end(),
                       [&](const Job::Part& part) { return part.state == state; });
  };
  if (any("running")) return "Running";
  if (any("cancelled")) return "Stopped";
  return any("failed") || any("unknown") ? "Failed" : "Completed";
}

Object JobObject(const Job& job) {
  Object out("Job");
  Array names;
  for (const Job::Part& part : job.parts) names.emplace_back(part.vm_name);
  out.Add("Id", job.id)
      .Add("Name", "Job" + std::to_string(job.id))
      .Add("State", StateOf(job))
      .Add("HasMoreData", std::any_of(job.parts.begin(), job.parts.end(),
                                      [](const Job::Part& part) { return !part.received; }))
      .Add("Command", job.command, true)
      .Add("VMName", std::move(names), true);
  return out;
}

// Asks how far a part is; with `wait` until it has ended.
std::optional<Json> Look(Context& context, Job::Part* part, bool wait) {
  auto operation = wait ? WaitForOperation(context, part->operation, part->vm_name)
                        : Ask(context, "GET", "/v1/operations/" + EscapePath(part->operation));
  // An operation that is not known any more (the service was started anew) has no end to wait for.
  part->state = operation           ? TextAt(*operation, "state")
                : context.stopped() ? part->state
                                    : "unknown";
  return operation;
}

// Calls `use` for each job that -Id or -Job names, or for all.
void ForEachJob(const Bound& bound, Context& context, const std::function<void(Job*)>& use) {
  std::vector<int64_t> ids;
  for (const Value& id : bound.Values("Id")) ids.push_back(ToInt(id).value_or(0));
  for (const Value& job : bound.Values("Job")) ids.push_back(ToInt(Member(job, "Id")).value_or(0));
  std::vector<Job>& jobs = context.session().jobs();
  if (ids.empty()) {
    for (Job& job : jobs) use(&job);
    return;
  }
  for (const int64_t id : ids) {
    if (context.stopped()) return;
    const auto found =
        std::find_if(jobs.begin(), jobs.end(), [&](const Job& job) { return job.id == id; });
    if (found != jobs.end()) {
      use(&*found);
      continue;
    }
    ErrorRecord error;
    error.id = "JobNotFound";
    error.category = ErrorCategory::kNotFound;
    error.target = std::to_string(id);
    error.message = "there is no job " + std::to_string(id) + " in this session";
    context.Error(std::move(error));
  }
}

class GetJob : public Cmdlet {
 public:
  void Process(const Bound& bound, Context& context) override {
    ForEachJob(bound, context, [&](Job* job) {
      for (Job::Part& part : job->parts) {
        if (Running(part)) Look(context, &part, false);
      }
      context.Write(JobObject(*job));
    });
  }
};

class WaitJob : public Cmdlet {
 public:
  void Process(const Bound& bound, Context& context) override {
    ForEachJob(bound, context, [&](Job* job) {
      for (Job::Part& part : job->parts) {
        if (Running(part) && !context.stopped()) Look(context, &part, true);
      }
      context.Write(JobObject(*job));
    });
  }
};

class ReceiveJob : public Cmdlet {
 public:
  void Process(const Bound& bound, Context& context) override {
    ForEachJob(bound, context, [&](Job* job) {
      for (Job::Part& part : job->parts) {
        if (part.received || context.stopped()) continue;
        const auto operation = Look(context, &part, bound.Switch("Wait"));
        if (!operation || Running(part)) continue;
        part.received = true;
        if (part.state == "succeeded") {
          if (const auto vm = Ask(context, "GET", "/v1/vms/" + EscapePath(part.vm_name)))
            context.Write(VmObject(*vm));
          continue;
        }
        ErrorRecord error;
        if (operation->contains("error") && (*operation)["error"].is_object()) {
          error = ErrorFrom((*operation)["error"], 200);
        } else {
          error.id = "operation." + part.state;
          error.message = job->command + " of " + part.vm_name + " was " + part.state;
        }
        if (error.target.empty()) error.target = part.vm_name;
        context.Error(std::move(error));
      }
    });
  }
};

class StopJob : public Cmdlet {
 public:
  void Process(const Bound& bound, Context& context) override {
    ForEachJob(bound, context, [&](Job* job) {
      if (!context.ShouldProcess("Job" + std::to_string(job->id), "Stop-Job")) return;
      for (Job::Part& part : job->parts) {
        if (Running(part)) Ask(context, "DELETE", "/v1/operations/" + EscapePath(part.operation));
      }
    });
  }
};

std::vector<Parameter> JobParameters(bool mandatory, std::vector<Parameter> more) {
  std::vector<Parameter> out = {{.name = "Id",
                                 .type = ParameterType::kInt,
                                 .help = "Numbers of jobs.",
                                 .position = 0,
                                 .mandatory = mandatory,
                                 .array = true,
                                 .sets = {"Id"}},
                                {.name = "Job",
                                 .type = ParameterType::kObject,
                                 .help = "Jobs as Get-Job gives them.",
                                 .position = 0,
                                 .mandatory = true,
                                 .array = true,
                                 .from_pipeline = true,
                                 .sets = {"Job"},
                                 .object_type = "Job"}};
  std::move(more.begin(), more.end(), std::back_inserter(out));
  return out;
}

}  // namespace

void Operations::MakeJob(Context& context, const std::string& command) {
  if (running_.empty()) return;
  std::vector<Job>& jobs = context.session().jobs();
  if (jobs.size() >= kMaxJobs) jobs.erase(jobs.begin());
  Job job;
  job.id = jobs.empty() ? 1 : jobs.back().id + 1;
  job.command = command;
  for (Running& one : running_)
    job.parts.push_back({.operation = std::move(one.id), .vm_name = std::move(one.vm_name)});
  running_.clear();
  jobs.push_back(job);
  context.Write(JobObject(job));
}

void AddJobCmdlets(CmdletTable* table) {
  table->Add({.verb = "Get",
              .noun = "Job",
              .aliases = {"gjb"},
              .synopsis = "Lists this session's jobs.",
              .description = "Work that -AsJob left to the service.",
              .output_type = "Job",
              .sets = {"Id", "Job"},
              .parameters = JobParameters(false, {}),
              .examples = {{"Start-VM web2 -AsJob | Wait-Job; Get-Job | Measure-Object | "
                            "ForEach-Object Count",
                            "How many there are.",
                            "\nId Name State     HasMoreData\n-- ---- -----     -----------\n 1 "
                            "Job1 Completed True\n\n1\n"}},
              .make = MakeCmdlet<GetJob>});
  table->Add({.verb = "Wait",
              .noun = "Job",
              .aliases = {"wjb"},
              .synopsis = "Waits until jobs have ended.",
              .description = "Ctrl-C ends the wait and not the job.",
              .output_type = "Job",
              .sets = {"Id", "Job"},
              .parameters = JobParameters(true, {}),
              .examples = {{"Start-VM web2 -AsJob | Wait-Job | ForEach-Object State",
                            "When it has ended.", "Completed\n"}},
              .make = MakeCmdlet<WaitJob>});
  table->Add({.verb = "Receive",
              .noun = "Job",
              .aliases = {"rcjb"},
              .synopsis = "What jobs have brought about: machines, and errors.",
              .description = "Each result is given once.",
              .output_type = "VM",
              .sets = {"Id", "Job"},
              .parameters = JobParameters(true, {Flag("Wait", "Waits until they have ended.")}),
              .examples = {{"Start-VM web2 -AsJob | Receive-Job -Wait | ForEach-Object State",
                            "The machine it was about.", "Running\n"}},
              .make = MakeCmdlet<ReceiveJob>});
  table->Add(
      {.verb = "Stop",
       .noun = "Job",
       .aliases = {"spjb"},
       .synopsis = "Asks the service to give jobs up.",
       .description = "What cannot be given up any more is done.",
       .output_type = "None",
       .sets = {"Id", "Job"},
       .parameters = JobParameters(true, {}),
       .examples = {{"Start-VM web2 -AsJob | Stop-Job -WhatIf", "What would be given up.", ""}},
       .should_process = true,
       .make = MakeCmdlet<StopJob>});
}

}  // namespace partita::shell
