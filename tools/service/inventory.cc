#include "tools/service/inventory.h"

#include <strings.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "tools/control/identity.h"
#include "tools/service/wall_time.h"
#include "tools/service/worker_link.h"

namespace partita::service {
namespace {

bool SameName(const std::string& a, const std::string& b) {
  return a.size() == b.size() && strncasecmp(a.data(), b.data(), a.size()) == 0;
}

// What may change while a machine runs is left out.
std::string FixedPart(const control::PartitionDefinition& definition) {
  control::PartitionDefinition copy = definition;
  copy.clear_name();
  copy.clear_notes();
  copy.clear_actions();
  return copy.SerializeAsString();
}

ApiError CouldNotSave(const std::string& name, const absl::Status& status) {
  return error::Host(
      name, absl::StrCat("the definition of '", name, "' could not be written: ", status.message()),
      "Nothing was changed. See that the service's state directory has room and "
      "may be written.");
}

}  // namespace

std::string NewGuid() {
  uint8_t b[16] = {};
  static_cast<void>(getrandom(b, sizeof(b), 0));
  b[6] = static_cast<uint8_t>((b[6] & 0x0F) | 0x40);
  b[8] = static_cast<uint8_t>((b[8] & 0x3F) | 0x80);
  const std::string hex = Hex({reinterpret_cast<const char*>(b), sizeof(b)});
  return absl::StrCat(hex.substr(0, 8), "-", hex.substr(8, 4), "-", hex.substr(12, 4), "-",
                      hex.substr(16, 4), "-", hex.substr(20));
}

std::string GuidBytes(const std::string& text) {
  std::string hex;
  for (const char c : text) {
    if (c != '-') hex += c;
  }
  return FromHex(hex);
}

void Inventory::Load() {
  std::vector<std::string> damaged;
  for (StoredVm& stored : store_.Load(&damaged)) {
    auto vm = std::make_unique<Vm>();
    vm->stored = std::move(stored);
    vms_[vm->id()] = std::move(vm);
  }
  for (const std::string& line : damaged) {
    Log(line);
    events_.Add("service.definition_damaged", "", "", line);
  }
}

Vm* Inventory::Find(const std::string& name_or_id) const {
  if (IsGuidText(name_or_id)) {
    std::string id = name_or_id;
    std::transform(id.begin(), id.end(), id.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    const auto it = vms_.find(id);
    return it == vms_.end() ? nullptr : it->second.get();
  }
  for (const auto& [id, vm] : vms_) {
    if (SameName(vm->name(), name_or_id)) return vm.get();
  }
  return nullptr;
}

std::vector<Vm*> Inventory::All() const {
  std::vector<Vm*> all;
  all.reserve(vms_.size());
  for (const auto& [id, vm] : vms_) all.push_back(vm.get());
  std::sort(all.begin(), all.end(), [](const Vm* a, const Vm* b) {
    const int order = strcasecmp(a->name().c_str(), b->name().c_str());
    return order != 0 ? order < 0 : a->id() < b->id();
  });
  return all;
}

std::optional<ApiError> Inventory::CheckName(const std::string& name, const Vm* self) const {
  const Vm* other = Find(name);
  if (other == nullptr || other == self) return std::nullopt;
  return ApiError{409,
                  "vm.exists",
                  "ResourceExists",
                  name,
                  absl::StrCat("there is a VM '", other->name(), "' already"),
                  {},
                  "Choose another name."};
}

std::optional<ApiError> Inventory::GiveAddresses(const std::string& id,
                                                 control::PartitionDefinition& definition,
                                                 const Vm* self) const {
  std::map<std::string, const Vm*> taken;
  for (const auto& [other_id, vm] : vms_) {
    if (vm.get() == self) continue;
    for (const auto& adapter : vm->stored.definition.adapters()) taken[adapter.mac()] = vm.get();
  }
  std::set<std::string> own;
  for (const auto& adapter : definition.adapters()) {
    if (adapter.mac().empty()) continue;
    own.insert(adapter.mac());
    const auto it = taken.find(adapter.mac());
    if (it == taken.end()) continue;
    return ApiError{409,
                    "adapter.address_in_use",
                    "ResourceExists",
                    definition.name(),
                    absl::StrCat("the address ", MacText(adapter.mac()), " belongs to the VM '",
                                 it->second->name(), "'"),
                    {},
                    "Leave 'mac' out and one is given."};
  }
  size_t index = 0;
  for (auto& adapter : *definition.mutable_adapters()) {
    while (adapter.mac().empty()) {
      const std::string mac = DerivedMac(GuidBytes(id), index++);
      if (!taken.contains(mac) && own.insert(mac).second) adapter.set_mac(mac);
    }
  }
  return std::nullopt;
}

Outcome<Vm*> Inventory::Create(const Json& json) {
  auto definition = DefinitionFromJson(json);
  if (!definition.ok()) return error::Definition(definition.status(), "");
  if (auto wrong = CheckName(definition->name(), nullptr)) return *wrong;
  if (vms_.size() >= kMaxVms) {
    return ApiError{403,
                    "limit.vms",
                    "LimitsExceeded",
                    "",
                    absl::StrCat("there are ", kMaxVms, " VMs, as many as one service has"),
                    {},
                    "Remove some."};
  }
  auto vm = std::make_unique<Vm>();
  vm->stored.id = NewGuid();
  vm->stored.created = WallTime();
  if (auto wrong = GiveAddresses(vm->id(), *definition, nullptr)) return *wrong;
  vm->stored.definition = *std::move(definition);
  if (const absl::Status saved = store_.Save(vm->stored); !saved.ok()) {
    return CouldNotSave(vm->name(), saved);
  }
  Vm* raw = vm.get();
  vms_[raw->id()] = std::move(vm);
  events_.Add("vm.created", raw->id(), raw->name(), "created");
  return raw;
}

Outcome<Vm*> Inventory::Change(Vm& vm, const Json& patch) {
  if (!patch.is_object()) return error::Request("a patch must be a JSON object");
  Json json = ToJson(vm.stored.definition);
  json.merge_patch(patch);
  auto definition = DefinitionFromJson(json);
  if (!definition.ok()) return error::Definition(definition.status(), vm.name());
  if (FixedPart(*definition) != FixedPart(vm.stored.definition) &&
      !Step(vm.state, VmEvent::kChange)) {
    return error::WrongState(vm.name(), Name(vm.state),
                             "; only 'name', 'notes' and 'actions' can be changed then",
                             "Stop the VM first.");
  }
  return Replace(vm, *std::move(definition));
}

Outcome<Vm*> Inventory::Replace(Vm& vm, control::PartitionDefinition definition) {
  if (auto wrong = CheckName(definition.name(), &vm)) return *wrong;
  if (auto wrong = GiveAddresses(vm.id(), definition, &vm)) return *wrong;
  StoredVm changed = vm.stored;
  changed.definition = std::move(definition);
  ++changed.generation;
  if (const absl::Status saved = store_.Save(changed); !saved.ok()) {
    return CouldNotSave(vm.name(), saved);
  }
  vm.stored = std::move(changed);
  events_.Add("vm.changed", vm.id(), vm.name(), "changed");
  return &vm;
}

std::optional<ApiError> Inventory::Remove(Vm& vm) {
  if (const absl::Status removed = store_.Remove(vm.id()); !removed.ok()) {
    return error::Host(vm.name(), std::string(Message(removed)));
  }
  events_.Add("vm.removed", vm.id(), vm.name(), "removed");
  vms_.erase(std::string(vm.id()));
  return std::nullopt;
}

void Inventory::Note(const Vm& vm) {
  const absl::Status saved = store_.Save(vm.stored);
  if (!saved.ok()) {
    events_.Add("service.not_saved", vm.id(), vm.name(), std::string(Message(saved)));
  }
}

std::optional<ApiError> Inventory::DisksInUse(const Vm& vm) const {
  for (const auto& disk : vm.stored.definition.disks()) {
    struct stat own {};
    if (stat(disk.path().c_str(), &own) != 0) continue;  // told when it is opened
    for (const auto& [id, other] : vms_) {
      if (other.get() == &vm || !HasWorker(other->state)) continue;
      for (const auto& theirs : other->stored.definition.disks()) {
        struct stat info {};
        if ((disk.read_only() && theirs.read_only()) || stat(theirs.path().c_str(), &info) != 0 ||
            info.st_dev != own.st_dev || info.st_ino != own.st_ino) {
          continue;
        }
        return ApiError{
            409,
            "disk.in_use",
            "ResourceBusy",
            disk.path(),
            absl::StrCat("the disk ", disk.path(), " is in use by the VM '", other->name(), "'"),
            {},
            absl::StrCat("Stop '", other->name(),
                         "', or give one of the two another "
                         "disk.")};
      }
    }
  }
  return std::nullopt;
}

}  // namespace partita::service
