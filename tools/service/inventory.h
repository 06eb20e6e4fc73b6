// All VMs there are: their definitions, and what must be so across them: one name, one address of
// an adapter, one writer of a disk. One thread.
#ifndef PARTITA_TOOLS_SERVICE_INVENTORY_H_
#define PARTITA_TOOLS_SERVICE_INVENTORY_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tools/control/definition_json.h"
#include "tools/service/event_log.h"
#include "tools/service/outcome.h"
#include "tools/service/store.h"
#include "tools/service/vm.h"

namespace partita::service {

class Inventory {
 public:
  static constexpr size_t kMaxVms = 4096;
  Inventory(Store& store, EventLog& events) : store_(store), events_(events) {}

  void Load();
  // By id, or by name without regard to case.
  [[nodiscard]] Vm* Find(const std::string& name_or_id) const;
  [[nodiscard]] std::vector<Vm*> All() const;  // by name
  Outcome<Vm*> Create(const Json& definition);
  // A merge patch on the definition. Some settings need a VM that is off.
  Outcome<Vm*> Change(Vm& vm, const Json& patch);
  Outcome<Vm*> Replace(Vm& vm, control::PartitionDefinition definition);
  // The state has been looked at before.
  std::optional<ApiError> Remove(Vm& vm);
  // Writes it; a disk that is full is the event of a moment, the definition in memory counts.
  void Note(const Vm& vm);
  // The VM that has one of these disks open so that this one may not.
  [[nodiscard]] std::optional<ApiError> DisksInUse(const Vm& vm) const;

 private:
  std::optional<ApiError> CheckName(const std::string& name, const Vm* self) const;
  // Gives addresses to adapters that have none; an error if one is another VM's.
  std::optional<ApiError> GiveAddresses(const std::string& id,
                                        control::PartitionDefinition& definition,
                                        const Vm* self) const;
  Store& store_;
  EventLog& events_;
  std::map<std::string, std::unique_ptr<Vm>> vms_;  // by id
};

std::string NewGuid();
// The 16 bytes that a GUID's text stands for.
std::string GuidBytes(const std::string& text);

}  // namespace partita::service

#endif  // PARTITA_TOOLS_SERVICE_INVENTORY_H_
