#include "tools/shell/view.h"

#include "tools/shell/text.h"

namespace partita::shell {
namespace {

Column Left(std::string name) { return {name, name, Align::kLeft, Unit::kPlain, 0}; }
Column Right(std::string name) { return {name, name, Align::kRight, Unit::kPlain, 0}; }
Column Mebibytes(const std::string& name) {
  return {name + "(M)", name, Align::kRight, Unit::kMebibytes, 0};
}

}  // namespace

const View* ViewTable::Find(std::string_view type_name) const {
  for (const View& view : views_) {
    if (EqualsFold(view.type_name, type_name)) return &view;
  }
  return nullptr;
}

ViewTable DefaultViews() {
  ViewTable table;
  table.Add({"VM",
             {Left("Name"),
              Left("State"),
              {"CPUUsage(%)", "CPUUsage", Align::kRight, Unit::kPlain, 0},
              Mebibytes("MemoryAssigned"),
              Right("Uptime"),
              Left("Status"),
              Left("Version")}});
  table.Add({"VMNetworkAdapter",
             {Left("Name"), Left("IsManagementOs"), Left("VMName"), Left("SwitchName"),
              Left("MacAddress"), Left("Status"), Left("IPAddresses")}});
  table.Add({"VMHardDiskDrive",
             {Left("VMName"), Left("ControllerType"), Right("ControllerNumber"),
              Right("ControllerLocation"), Right("DiskNumber"), Left("Path")}});
  table.Add({"VMIntegrationService",
             {Left("VMName"), Left("Name"), Left("Enabled"), Left("PrimaryStatusDescription"),
              Left("SecondaryStatusDescription")}});
  table.Add({"VMMetrics",
             {Left("VMName"), Right("CPUTime"), Mebibytes("MemoryAssigned"),
              Mebibytes("MemoryDemand"), Mebibytes("DiskRead"), Mebibytes("DiskWritten"),
              Mebibytes("NetworkInbound"), Mebibytes("NetworkOutbound")}});
  table.Add({"VMMemory",
             {Left("VMName"), Left("DynamicMemoryEnabled"), Mebibytes("Minimum"),
              Mebibytes("Startup"), Mebibytes("Maximum")}});
  table.Add({"VMWorker",
             {Left("VMName"), Right("ProcessId"), Left("Backend"), Mebibytes("ResidentMemory")}});
  table.Add({"VMEvent",
             {{"Time", "Time", Align::kLeft, Unit::kPlain, 24},
              {"VMName", "VMName", Align::kLeft, Unit::kPlain, 16},
              {"Type", "Type", Align::kLeft, Unit::kPlain, 16},
              Left("Message")}});
  table.Add({"Job", {Right("Id"), Left("Name"), Left("State"), Left("HasMoreData")}});
  table.Add({"GroupInfo", {Right("Count"), Left("Name"), Left("Group")}});
  table.Add({"CmdletInfo", {Left("Name"), Left("Synopsis")}});
  table.Add({"AliasInfo", {Left("Name"), Left("Definition")}});
  table.Add({"MemberInfo", {Left("Name"), Left("MemberType"), Left("Type"), Left("TypeName")}});
  table.Add({"Variable", {Left("Name"), Left("Value")}});
  return table;
}

std::string CellText(const Value& object, const Column& column) {
  const Value value = Member(object, column.property);
  if (column.unit == Unit::kMebibytes && value.is_number()) {
    return std::to_string(ToInt(value).value_or(0) / (1 << 20));
  }
  return Printable(ToDisplay(value));
}

}  // namespace partita::shell
