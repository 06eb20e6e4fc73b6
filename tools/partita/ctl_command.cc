#include "tools/partita/ctl_command.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "tools/control/channel.h"
#include "tools/host/device_messages.h"
#include "tools/host/unix_socket.h"
#include "tools/partita/run_command.h"

namespace partita {
namespace {

constexpr int kWaitSeconds = 180;  // a guest that is asked to freeze may write for long

absl::StatusOr<control::Reply> Ask(const CtlOptions& options) {
  ASSIGN_OR_RETURN(const sockaddr_un address, UnixAddress("ctl", options.socket));
  UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd.valid() ||
      connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return SystemError("control socket " + options.socket);
  }
  const timeval wait = {.tv_sec = kWaitSeconds, .tv_usec = 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
  const control::Channel channel(std::move(fd));
  control::Request request = options.request;
  request.set_id(1);
  std::vector<int> raw;
  for (const UniqueFd& descriptor : options.descriptors) raw.push_back(descriptor.get());
  RETURN_IF_ERROR(channel.Send(request, raw));
  control::Event event;
  const absl::Status received = channel.Receive(&event);
  if (absl::IsDeadlineExceeded(received)) {
    return absl::DeadlineExceededError("the partition did not answer");
  }
  if (absl::IsUnavailable(received)) return Unavailable("the partition has ended");
  RETURN_IF_ERROR(received);
  if (!event.has_reply()) return Internal("an answer that is none");
  if (!event.reply().error().empty()) return FailedPrecondition(event.reply().error());
  return event.reply();
}

// In order of their names.
std::map<std::string, uint64_t> NumbersOf(const control::Reply& reply) {
  return {reply.numbers().begin(), reply.numbers().end()};
}

void PrintJson(const control::Reply& reply) {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  for (const control::Pair& pair : reply.texts()) out[pair.name()] = pair.value();
  for (const auto& [name, value] : NumbersOf(reply)) out[name] = value;
  printf("%s\n", out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
}

void PrintText(const control::Reply& reply) {
  for (const control::Pair& pair : reply.texts()) {
    printf("%-34s %s\n", pair.name().c_str(), pair.value().c_str());
  }
  for (const auto& [name, value] : NumbersOf(reply)) {
    printf("%-34s %llu\n", name.c_str(), static_cast<unsigned long long>(value));
  }
}

}  // namespace

absl::Status PrepareDisk(CtlOptions& o) {
  ASSIGN_OR_RETURN(const control::DiskDefinition disk, ParseDiskOption(o.text));
  if (!disk.record().empty()) return InvalidArgument("record= is for disks of `partita run`");
  ASSIGN_OR_RETURN(UniqueFd fd, OpenDisk(disk));
  FillDisk(disk, "", *o.request.mutable_add_disk()->mutable_disk());
  o.descriptors.push_back(std::move(fd));
  return absl::OkStatus();
}

absl::Status PrepareAdapter(CtlOptions& o) {
  ASSIGN_OR_RETURN(const control::AdapterDefinition net, ParseNetOption(o.text));
  uint32_t queues = net.queues() != 0 ? net.queues() : 1;
  ASSIGN_OR_RETURN(o.descriptors, OpenNet(net, &queues));
  FillAdapter(net, queues, *o.request.mutable_add_adapter()->mutable_adapter());
  return absl::OkStatus();
}

absl::Status PrepareCopy(CtlOptions& o) {
  UniqueFd fd(open(o.text.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return SystemError("file " + o.text);
  const size_t slash = o.word.rfind('/');
  if (o.word[0] != '/' || slash + 1 == o.word.size()) {
    return InvalidArgument("the target is an absolute path with the name of a file");
  }
  control::CopyFile& copy = *o.request.mutable_copy_file();
  copy.set_name(o.word.substr(slash + 1));
  copy.set_directory(o.word.substr(0, slash + 1));
  copy.set_overwrite(o.overwrite);
  copy.set_create_directory(o.create_path);
  o.descriptors.push_back(std::move(fd));
  return absl::OkStatus();
}

absl::Status PrepareMemory(CtlOptions& o) {
  uint64_t bytes = 0, maximum = 0;
  int pages = 0;
  if (o.text.find(',') != std::string::npos) return InvalidArgument("a size like 384M, no more");
  RETURN_IF_ERROR(ParseMemory(o.text, &bytes, &pages, &maximum));
  o.request.mutable_set_memory()->set_bytes(bytes);
  return absl::OkStatus();
}

int RunCtl(CtlOptions& options) {
  if (options.prepare) {
    if (const absl::Status status = options.prepare(); !status.ok()) {
      Log(Message(status));
      return control::kExitStartFailed;
    }
  }
  const auto reply = Ask(options);
  if (!reply.ok()) {
    Log(Message(reply.status()));
    return control::kExitStartFailed;
  }
  if (options.heartbeat_only) {
    for (const control::Pair& pair : reply->texts()) {
      if (pair.name() == "heartbeat") printf("%s\n", pair.value().c_str());
    }
  } else if (options.json) {
    PrintJson(*reply);
  } else {
    PrintText(*reply);
  }
  return 0;
}

}  // namespace partita
