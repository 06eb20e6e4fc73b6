#include "tools/service/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file_lock.h"
#include "tools/control/control.pb.h"
#include "tools/control/definition_json.h"
#include "tools/control/json_fields.h"
#include "tools/host/host_facts.h"
#include "tools/service/wall_time.h"

namespace partita::service {
namespace {

constexpr size_t kLargestFile = 1 << 20;
constexpr char kSuffix[] = ".json";

absl::Status MakeDirectories(const std::string& path) {
  for (size_t at = 1; at != std::string::npos;) {
    at = path.find('/', at);
    const std::string part = path.substr(0, at);
    if (mkdir(part.c_str(), 0700) != 0 && errno != EEXIST) return SystemError("making " + part);
    if (at != std::string::npos) ++at;
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> OpenDirectory(const std::string& path) {
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return SystemError("making " + path);
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return SystemError("opening " + path);
  return fd;
}

absl::Status WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return SystemError("writing");
    text.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

// The file is the old one or the new one, whatever happens in between.
absl::Status Replace(int directory, const std::string& name, std::string_view text) {
  const std::string fresh = "." + name + ".new";
  UniqueFd fd(openat(directory, fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd.valid()) return SystemError("writing " + name);
  absl::Status status = WriteAll(fd.get(), text);
  if (status.ok() && fsync(fd.get()) != 0) status = SystemError("flushing " + name);
  if (status.ok() && renameat(directory, fresh.c_str(), directory, name.c_str()) != 0) {
    status = SystemError("renaming " + name);
  }
  if (!status.ok()) {
    unlinkat(directory, fresh.c_str(), 0);
    return status;
  }
  if (fsync(directory) != 0) return SystemError("flushing the directory of " + name);
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadFile(int directory, const std::string& name) {
  const UniqueFd fd(openat(directory, name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  struct stat info {};
  if (!fd.valid() || fstat(fd.get(), &info) != 0) return SystemError("reading " + name);
  if (!S_ISREG(info.st_mode) || static_cast<size_t>(info.st_size) > kLargestFile) {
    return InvalidArgument(name + " is no file, or too large");
  }
  std::string text(static_cast<size_t>(info.st_size), '\0');
  const ssize_t got = pread(fd.get(), text.data(), text.size(), 0);
  if (got < 0) return SystemError("reading " + name);
  text.resize(static_cast<size_t>(got));
  return text;
}

std::vector<std::string> Names(int directory) {
  std::vector<std::string> names;
  DIR* stream = fdopendir(openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (stream == nullptr) return names;
  while (const dirent* entry = readdir(stream)) names.emplace_back(entry->d_name);
  closedir(stream);
  std::sort(names.begin(), names.end());
  return names;
}

// "ID.json" -> "ID".
std::optional<std::string> IdOf(const std::string& name) {
  if (!name.ends_with(kSuffix)) return std::nullopt;
  std::string id = name.substr(0, name.size() - sizeof(kSuffix) + 1);
  if (!IsGuidText(id)) return std::nullopt;
  return id;
}

absl::StatusOr<LastEnd> EndFromJson(const Json& json, const std::string& where) {
  LastEnd end;
  JsonFields fields(json, where);
  fields.Number("status", 0, 255, [&](uint64_t n) { end.status = static_cast<int>(n); });
  fields.Flag("silent", [&](bool on) {
    if (on) end.status = -1;
  });
  fields.Text("reason", 4096, [&](const std::string& t) { end.reason = t; });
  fields.Text("time", 64, [&](const std::string& t) { end.time = t; });
  RETURN_IF_ERROR(fields.Finish());
  return end;
}

absl::StatusOr<StoredVm> VmFromText(std::string_view text, const std::string& id) {
  ASSIGN_OR_RETURN(const Json json, ParseJson(text));
  StoredVm vm;
  JsonFields fields(json, "");
  fields.Text("id", 36, [&](const std::string& t) { vm.id = t; });
  fields.Text("created", 64, [&](const std::string& t) { vm.created = t; });
  fields.Number("generation", 1, UINT64_MAX, [&](uint64_t n) { vm.generation = n; });
  fields.Flag("wanted_running", [&](bool on) { vm.wanted_running = on; });
  fields.Object("last_end", [&](const Json& v, const std::string& where) {
    ASSIGN_OR_RETURN(vm.last_end, EndFromJson(v, where));
    return absl::OkStatus();
  });
  fields.Object("definition", [&](const Json& v, const std::string&) {
    ASSIGN_OR_RETURN(vm.definition, DefinitionFromJson(v));
    return absl::OkStatus();
  });
  RETURN_IF_ERROR(fields.Finish());
  if (vm.id != id) return InvalidArgument("its id is not that of the file's name");
  if (vm.definition.name().empty()) return InvalidArgument("it has no definition");
  return vm;
}

std::string Text(const StoredVm& vm) {
  Json json;
  json["id"] = vm.id;
  json["created"] = vm.created;
  json["generation"] = vm.generation;
  json["wanted_running"] = vm.wanted_running;
  if (vm.last_end) {
    Json end = {{"status", static_cast<uint32_t>(std::max(vm.last_end->status, 0))}};
    if (vm.last_end->status < 0) end["silent"] = true;
    end["reason"] = vm.last_end->reason;
    end["time"] = vm.last_end->time;
    json["last_end"] = std::move(end);
  }
  json["definition"] = ToJson(vm.definition);
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

std::string BootId() { return ReadLine("/proc/sys/kernel/random/boot_id"); }

absl::StatusOr<std::unique_ptr<Store>> Store::Open(const std::string& directory) {
  RETURN_IF_ERROR(MakeDirectories(directory));
  std::unique_ptr<Store> store(new Store(directory));
  const std::string lock = directory + "/lock";
  store->lock_ = UniqueFd(open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!store->lock_.valid()) return SystemError("opening " + lock);
  if (!LockForProcess(store->lock_.get())) {
    if (errno != EAGAIN && errno != EACCES) return SystemError("locking " + lock);
    return FailedPrecondition("another service has the directory " + directory);
  }
  ASSIGN_OR_RETURN(store->vms_, OpenDirectory(directory + "/vms"));
  ASSIGN_OR_RETURN(store->run_, OpenDirectory(directory + "/run"));
  return store;
}

std::vector<StoredVm> Store::Load(std::vector<std::string>* damaged) {
  std::vector<StoredVm> vms;
  for (const std::string& name : Names(vms_.get())) {
    if (name.ends_with(".new")) {  // of a service that ended in the middle of it
      unlinkat(vms_.get(), name.c_str(), 0);
      continue;
    }
    const auto id = IdOf(name);
    if (!id) continue;
    auto text = ReadFile(vms_.get(), name);
    auto vm = text.ok() ? VmFromText(*text, *id) : absl::StatusOr<StoredVm>(text.status());
    if (vm.ok()) {
      vms.push_back(*std::move(vm));
      continue;
    }
    const std::string aside = absl::StrCat(name, ".damaged-", time(nullptr));
    const bool moved = renameat(vms_.get(), name.c_str(), vms_.get(), aside.c_str()) == 0;
    damaged->push_back(absl::StrCat("the definition ", name, " cannot be used (",
                                    vm.status().message(), ")",
                                    moved ? absl::StrCat("; it was set aside as ", aside) : ""));
  }
  return vms;
}

absl::Status Store::Save(const StoredVm& vm) const {
  return Replace(vms_.get(), vm.id + kSuffix, Text(vm));
}

absl::Status Store::Remove(const std::string& id) const {
  if (unlinkat(vms_.get(), (id + kSuffix).c_str(), 0) != 0) return SystemError("removing " + id);
  if (fsync(vms_.get()) != 0) return SystemError("flushing the directory of " + id);
  return absl::OkStatus();
}

absl::Status Store::SaveRun(const std::string& id, const RunFile& run) const {
  const Json json = {{"socket", run.socket}, {"secret", run.secret}, {"boot_id", run.boot_id}};
  return Replace(run_.get(), id + kSuffix, json.dump(2) + "\n");
}

std::optional<RunFile> Store::LoadRun(const std::string& id) const {
  const auto text = ReadFile(run_.get(), id + kSuffix);
  if (!text.ok()) return std::nullopt;
  const auto json = ParseJson(*text);
  if (!json.ok()) return std::nullopt;
  RunFile run;
  JsonFields fields(*json, "");
  fields.Text("socket", 4096, [&](const std::string& t) { run.socket = t; });
  fields.Text("secret", 256, [&](const std::string& t) { run.secret = t; });
  fields.Text("boot_id", 64, [&](const std::string& t) { run.boot_id = t; });
  if (!fields.Finish().ok()) return std::nullopt;
  return run;
}

void Store::RemoveRun(const std::string& id) const {
  unlinkat(run_.get(), (id + ".end").c_str(), 0);
  unlinkat(run_.get(), (id + kSuffix).c_str(), 0);
}

std::vector<std::string> Store::Runs() const {
  std::vector<std::string> ids;
  for (const std::string& name : Names(run_.get())) {
    if (name.ends_with(".new")) unlinkat(run_.get(), name.c_str(), 0);
    if (auto id = IdOf(name)) ids.push_back(*std::move(id));
  }
  return ids;
}

absl::StatusOr<UniqueFd> Store::NewReport(const std::string& id) const {
  const std::string name = id + ".end";
  UniqueFd fd(openat(run_.get(), name.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd.valid()) return SystemError("making " + name);
  return fd;
}

std::optional<LastEnd> Store::ReadReport(const std::string& id) const {
  const auto text = ReadFile(run_.get(), id + ".end");
  control::Ended ended;
  if (!text.ok() || text->empty() || !ended.ParseFromString(*text)) return std::nullopt;
  return LastEnd{.status = ended.status(), .reason = ended.reason(), .time = WallTime()};
}

std::string Store::LastBoot() const { return ReadLine(directory_ + "/boot"); }

absl::Status Store::NoteBoot(const std::string& boot_id) const {
  ASSIGN_OR_RETURN(const UniqueFd directory, OpenDirectory(directory_));
  return Replace(directory.get(), "boot", boot_id + "\n");
}

}  // namespace partita::service
