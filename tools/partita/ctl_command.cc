#include "tools/partita/ctl_command.h"

#include <sys/socket.h>
#include <sys/time.h>

#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "tools/control/channel.h"
#include "tools/partita/unix_socket.h"

namespace partita {
namespace {

constexpr int kWaitSeconds = 60;  // the guest's daemons get 35

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
  RETURN_IF_ERROR(channel.Send(request));
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

int RunCtl(const CtlOptions& options) {
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
