// What the cmdlets of virtual machines share: which machines a command line means, a machine as an
// object, and long work at the service. One thread.
#ifndef PARTITA_TOOLS_SHELL_CMDLETS_VM_COMMON_H_
#define PARTITA_TOOLS_SHELL_CMDLETS_VM_COMMON_H_

#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tools/shell/cmdlet.h"
#include "tools/shell/service.h"
#include "tools/shell/session.h"

namespace partita::shell {

// -Name (or -VMName), -VM and -Id, each its parameter set; `more` follow. Without `mandatory` no
// name means all of them.
std::vector<std::string> VmSets();
std::vector<Parameter> VmParameters(bool mandatory, std::vector<Parameter> more = {});
// The same for what belongs to a machine: -VMName, because -Name is the thing's own there, as its
// objects have VMName and Name too.
std::vector<Parameter> DeviceParameters(std::vector<Parameter> more = {});
Parameter Flag(std::string name, std::string help);
Parameter PassThru();

// The request's answer, or nothing after its error was reported.
std::optional<Json> Ask(Context& context, std::string_view method, const std::string& path,
                        const Json& body = nullptr);
std::string VmPath(const Json& vm, std::string_view rest = {});

// Calls `use` for every machine that the parameters mean; one that is not there is an error, and
// the others go on. A wildcard may match none.
void ForEachVm(const Bound& bound, Context& context, const std::function<void(const Json&)>& use);

// A service's answers as objects.
Object VmObject(const Json& vm);
// Any JSON: `memory_bytes` becomes the Size `Memory`, `uptime_ms` the TimeSpan `Uptime`, times
// dates; names are written as PowerShell's.
Value FromJson(const Json& json, const std::string& type_name);
Value TextOrNull(const Json& object, const char* key);
int64_t IntAt(const Json& object, const char* key);
std::string TextAt(const Json& object, const char* key);
// The member of that name, or an empty object.
const Json& ObjectAt(const Json& object, const char* key);
const Json& ArrayAt(const Json& object, const char* key);

// Long work that the service does by itself: requests are sent as machines come down the pipeline,
// and waited for at the end, so that many machines work at the same time.
class Operations {
 public:
  // `done` is called with the machine's id once its work is done.
  using Done = std::function<void(const std::string& vm_id)>;

  // At most kMaxRunning run at once; the oldest is waited for when there would be more.
  void Send(Context& context, const Json& vm, std::string_view verb, const Json& body,
            const Done& done);
  void Wait(Context& context, const Done& done);
  // Leaves what runs to a job of the session, whose object goes down the pipeline.
  void MakeJob(Context& context, const std::string& command);

 private:
  struct Running {
    std::string id;
    std::string vm_id;
    std::string vm_name;
  };
  static constexpr size_t kMaxRunning = 16;
  void WaitForOldest(Context& context, const Done& done);
  std::deque<Running> running_;
  size_t sent_ = 0;
};
// Waits until the operation has ended; its last state, or nothing if it could not be asked.
std::optional<Json> WaitForOperation(Context& context, const std::string& id,
                                     const std::string& what);

// Makes a cmdlet that calls `action` for every machine.
using VmAction = void (*)(const Bound& bound, Context& context, const Json& vm);
std::function<std::unique_ptr<Cmdlet>()> EachVm(VmAction action);

// A path the service can use: absolute, whatever folder it works in.
std::string AbsolutePath(const std::string& path);

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_CMDLETS_VM_COMMON_H_
