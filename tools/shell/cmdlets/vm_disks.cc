// VMHardDiskDrive.
#include <utility>

#include "tools/shell/cmdlets/cmdlets.h"
#include "tools/shell/cmdlets/vm_common.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

// Disk `n` of a definition sits at location `n` of SCSI controller 0.
Object DiskObject(const Json& vm, size_t n, const Json& disk) {
  Object out("VMHardDiskDrive");
  out.Add("VMName", TextAt(vm, "name"))
      .Add("ControllerType", "SCSI")
      .Add("ControllerNumber", 0)
      .Add("ControllerLocation", static_cast<int64_t>(n))
      .Add("DiskNumber", Value())
      .Add("Path", TextAt(disk, "path"))
      .Add("ReadOnly", disk.value("read_only", Json(false)) == Json(true), true)
      .Add("Cache", TextAt(disk, "cache"), true)
      .Add("Format", TextAt(disk, "format"), true)
      .Add("LogicalBlockSize", IntAt(disk, "logical_block_bytes"), true);
  return out;
}

const Json& DisksOf(const Json& vm) { return ArrayAt(ObjectAt(vm, "definition"), "disks"); }

bool Chosen(const Bound& bound, size_t n, const Json& disk) {
  if (bound.Has("ControllerLocation") &&
      bound.Int("ControllerLocation", 0) != static_cast<int64_t>(n))
    return false;
  return bound.Int("ControllerNumber", 0) == 0 &&
         (!bound.Has("Path") || TextAt(disk, "path") == AbsolutePath(bound.Text("Path")));
}

ErrorRecord NoDisk(const Bound& bound, const Json& vm) {
  ErrorRecord error;
  error.id = "disk.not_found";
  error.category = ErrorCategory::kNotFound;
  error.target = TextAt(vm, "name");
  error.message = TextAt(vm, "name") + " has no such disk";
  if (bound.Has("ControllerLocation"))
    error.message =
        TextAt(vm, "name") + " has no disk at location " + bound.Text("ControllerLocation");
  error.next_step = "Get-VMHardDiskDrive shows where its disks are";
  return error;
}

void GetDisks(const Bound& bound, Context& context, const Json& vm) {
  const Json& disks = DisksOf(vm);
  for (size_t n = 0; n < disks.size(); ++n) {
    if (Chosen(bound, n, disks[n]) && !context.Write(DiskObject(vm, n, disks[n]))) return;
  }
}

void WriteDisk(const Bound& bound, Context& context, const Json& vm, size_t n) {
  if (bound.Switch("PassThru") && n < DisksOf(vm).size())
    context.Write(DiskObject(vm, n, DisksOf(vm)[n]));
}

void AddDisk(const Bound& bound, Context& context, const Json& vm) {
  if (!context.ShouldProcess(TextAt(vm, "name"), "Add-VMHardDiskDrive")) return;
  Json disk = {{"path", AbsolutePath(bound.Text("Path"))}};
  if (bound.Has("ReadOnly")) disk["read_only"] = bound.Switch("ReadOnly");
  if (bound.Has("Cache")) disk["cache"] = Lower(bound.Text("Cache"));
  if (bound.Has("LogicalBlockSize"))
    disk["logical_block_bytes"] = bound.Int("LogicalBlockSize", 512);
  const auto changed = Ask(context, "POST", VmPath(vm, "/disks"), disk);
  if (changed && !DisksOf(*changed).empty())
    WriteDisk(bound, context, *changed, DisksOf(*changed).size() - 1);
}

void SetDisk(const Bound& bound, Context& context, const Json& vm) {
  const auto n = static_cast<size_t>(bound.Int("ControllerLocation", 0));
  if (n >= DisksOf(vm).size()) return context.Error(NoDisk(bound, vm));
  if (!context.ShouldProcess(TextAt(vm, "name"), "Set-VMHardDiskDrive")) return;
  // A merge patch replaces arrays as a whole.
  Json disks = DisksOf(vm);
  if (bound.Has("Path")) disks[n]["path"] = AbsolutePath(bound.Text("Path"));
  if (bound.Has("ReadOnly")) disks[n]["read_only"] = bound.Switch("ReadOnly");
  if (bound.Has("Cache")) disks[n]["cache"] = Lower(bound.Text("Cache"));
  const auto changed = Ask(context, "PATCH", VmPath(vm), {{"disks", std::move(disks)}});
  if (changed) WriteDisk(bound, context, *changed, n);
}

void RemoveDisk(const Bound& bound, Context& context, const Json& vm) {
  const Json& disks = DisksOf(vm);
  for (size_t n = 0; n < disks.size(); ++n) {
    if (!Chosen(bound, n, disks[n])) continue;
    const std::string target = TextAt(vm, "name") + ", " + TextAt(disks[n], "path");
    if (!context.ShouldProcess(target, "Remove-VMHardDiskDrive")) return;
    const auto done = Ask(context, "DELETE", VmPath(vm, "/disks/" + std::to_string(n)));
    if (done && bound.Switch("PassThru")) context.Write(DiskObject(vm, n, disks[n]));
    return;
  }
  context.Error(NoDisk(bound, vm));
}

// Where a disk is; by property too, so that disks come down a pipeline.
std::vector<Parameter> Location(bool mandatory) {
  return {{.name = "ControllerType",
           .type = ParameterType::kEnum,
           .help = "The kind of controller.",
           .from_property = true,
           .values = {"SCSI"}},
          {.name = "ControllerNumber",
           .type = ParameterType::kInt,
           .help = "The controller; there is number 0.",
           .from_property = true},
          {.name = "ControllerLocation",
           .type = ParameterType::kInt,
           .help = "The place at the controller.",
           .position = 1,
           .mandatory = mandatory,
           .from_property = true}};
}

std::vector<Parameter> With(std::vector<Parameter> a, std::vector<Parameter> b) {
  std::move(b.begin(), b.end(), std::back_inserter(a));
  return a;
}

Parameter Path(const char* help, int position, bool mandatory) {
  return {.name = "Path",
          .type = ParameterType::kPath,
          .help = help,
          .position = position,
          .mandatory = mandatory};
}
Parameter ReadOnly() {
  return {.name = "ReadOnly",
          .type = ParameterType::kBool,
          .help = "Whether the guest may write to it."};
}
Parameter Cache() {
  return {.name = "Cache",
          .type = ParameterType::kEnum,
          .help = "The host's page cache for its writes.",
          .values = {"WriteBack", "None"}};
}

}  // namespace

void AddDiskCmdlets(CmdletTable* table) {
  table->Add(
      {.verb = "Get",
       .noun = "VMHardDiskDrive",
       .synopsis = "Lists the disks of virtual machines.",
       .description = "One line for each disk.",
       .output_type = "VMHardDiskDrive",
       .sets = VmSets(),
       .parameters = DeviceParameters(With(Location(false), {Path("Its file.", -1, false)})),
       .examples =
           {{"Get-VMHardDiskDrive web1", "A machine's disks.",
             "\nVMName ControllerType ControllerNumber ControllerLocation DiskNumber Path\n------ "
             "-------------- ---------------- ------------------ ---------- ----\nweb1   SCSI      "
             "                    0                  0            /srv/web1.raw\n\n"}},
       .make = EachVm(GetDisks)});
  table->Add(
      {.verb = "Add",
       .noun = "VMHardDiskDrive",
       .synopsis = "Gives virtual machines a disk.",
       .description = "To a running machine too.",
       .output_type = "VMHardDiskDrive",
       .sets = VmSets(),
       .parameters = DeviceParameters({Path("Its file or device.", 1, true),
                                       ReadOnly(),
                                       Cache(),
                                       {.name = "LogicalBlockSize",
                                        .type = ParameterType::kInt,
                                        .help = "Bytes of a block: 512 or 4096."},
                                       PassThru()}),
       .examples = {{"Add-VMHardDiskDrive web2 /srv/data.raw -PassThru | ForEach-Object Path",
                     "Another disk.", "/srv/data.raw\n"}},
       .should_process = true,
       .make = EachVm(AddDisk)});
  table->Add(
      {.verb = "Set",
       .noun = "VMHardDiskDrive",
       .synopsis = "Changes a disk of virtual machines.",
       .description = "The machine has to be off.",
       .output_type = "VMHardDiskDrive",
       .sets = VmSets(),
       .parameters = DeviceParameters(With(
           Location(true), {Path("Its new file.", 2, false), ReadOnly(), Cache(), PassThru()})),
       .examples =
           {{"Set-VMHardDiskDrive web2 0 -Path /srv/new.raw -PassThru | ForEach-Object Path",
             "Another file for a disk.", "/srv/new.raw\n"}},
       .should_process = true,
       .make = EachVm(SetDisk)});
  table->Add(
      {.verb = "Remove",
       .noun = "VMHardDiskDrive",
       .synopsis = "Takes a disk from virtual machines.",
       .description = "Its file stays. From a running machine too.",
       .output_type = "VMHardDiskDrive",
       .sets = VmSets(),
       .parameters = DeviceParameters(With(Location(true), {PassThru()})),
       .examples = {{"Get-VMHardDiskDrive web2 | Remove-VMHardDiskDrive", "All of them.", ""}},
       .should_process = true,
       .make = EachVm(RemoveDisk)});
}

}  // namespace partita::shell
