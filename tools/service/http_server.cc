#include "tools/service/http_server.h"

#include <fcntl.h>
#include <microhttpd.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <utility>

#include "base/monotonic.h"
#include "tools/service/url.h"

namespace partita::service {
namespace {

uint64_t NowMs() { return MonotonicNs() / 1'000'000; }

HttpPeer PeerOf(int fd) {
  HttpPeer peer;
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return peer;
  peer = {.uid = credentials.uid, .gid = credentials.gid, .pid = credentials.pid, .groups = {}};
  constexpr size_t kMost = 256;
  std::vector<gid_t> groups(kMost);
  size = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
  if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size) == 0) {
    groups.resize(size / sizeof(gid_t));
    peer.groups = std::move(groups);
  }
  return peer;
}

int SocketOf(MHD_Connection* connection) {
  const auto* info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
  return info == nullptr ? -1 : info->connect_fd;
}

const char* Header(MHD_Connection* connection, const char* name) {
  const char* value = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
  return value == nullptr ? "" : value;
}

MHD_Response* MakeResponse(std::string_view body, std::string_view type) {
  MHD_Response* response = MHD_create_response_from_buffer(
      body.size(), const_cast<char*>(body.data()), MHD_RESPMEM_MUST_COPY);
  if (response != nullptr && !body.empty()) {
    MHD_add_response_header(response, "Content-Type", std::string(type).c_str());
  }
  return response;
}

}  // namespace

class HttpServer::Exchange final : public HttpExchange,
                                   public std::enable_shared_from_this<HttpServer::Exchange> {
 public:
  Exchange(HttpServer& server, MHD_Connection* connection)
      : server_(&server), connection_(connection), fd_(SocketOf(connection)) {
    server_->exchanges_.insert(this);
  }
  ~Exchange() override {
    Unwatch();
    if (response_ != nullptr) MHD_destroy_response(response_);
    if (server_ != nullptr) server_->exchanges_.erase(this);
  }

  void Reply(int status, std::string body, std::string_view type) override {
    if (Answered()) return;
    status_ = static_cast<unsigned>(status);
    response_ = MakeResponse(body, type);
    Resume();
  }

  void Stream(std::string_view type, std::function<std::optional<std::string>()> more) override {
    if (Answered()) return;
    more_ = std::move(more);
    status_ = MHD_HTTP_OK;
    constexpr size_t kBlock = 16384;
    response_ =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, kBlock, &Exchange::Read, this, nullptr);
    if (response_ != nullptr) {
      MHD_add_response_header(response_, "Content-Type", std::string(type).c_str());
    }
    Resume();
  }

  void Poke() override {
    if (streaming_ && suspended_) Resume();
  }

  void Upgrade(std::string_view protocol, std::function<void(UniqueFd)> take) override {
    if (Answered()) return;
    take_ = std::move(take);
    status_ = MHD_HTTP_SWITCHING_PROTOCOLS;
    response_ = MHD_create_response_for_upgrade(&Exchange::Upgraded, this);
    if (response_ != nullptr) {
      MHD_add_response_header(response_, MHD_HTTP_HEADER_UPGRADE, std::string(protocol).c_str());
    }
    Resume();
  }

  [[nodiscard]] bool gone() const override { return connection_ == nullptr || hung_up_; }

  // Called by libmicrohttpd when it may be answered: queues the answer, or waits for it.
  MHD_Result Answer() {
    if (response_ == nullptr) {
      Suspend();
      return MHD_YES;
    }
    streaming_ = more_ != nullptr;
    const MHD_Result queued = MHD_queue_response(connection_, status_, response_);
    MHD_destroy_response(std::exchange(response_, nullptr));
    queued_ = true;
    return queued;
  }
  void Forget() {
    Unwatch();
    connection_ = nullptr;
    suspended_ = false;
    more_ = nullptr;
  }
  // Before the server ends: nothing may be left waiting.
  void GiveUp() {
    closing_ = true;
    if (streaming_) return Resume();
    Reply(MHD_HTTP_SERVICE_UNAVAILABLE, "", "");
  }

  void Detach() { server_ = nullptr; }

  HttpRequest request;
  uint64_t discarded = 0;
  bool refused = false, handled = false;

 private:
  [[nodiscard]] bool Answered() const {
    return connection_ == nullptr || response_ != nullptr || queued_;
  }
  void Suspend() {
    if (suspended_) return;
    suspended_ = true;
    MHD_suspend_connection(connection_);
    // libmicrohttpd does not look at it now, so a client that leaves would not be seen.
    watched_ = server_->loop_
                   .Add(fd_, EPOLLET,
                        [weak = weak_from_this()](uint32_t events) {
                          const auto self = weak.lock();
                          if (self == nullptr || (events & (EPOLLHUP | EPOLLERR)) == 0) return;
                          self->HungUp();
                        })
                   .ok();
  }
  void HungUp() {
    hung_up_ = true;
    if (streaming_) return Resume();
    Reply(MHD_HTTP_INTERNAL_SERVER_ERROR, "", "");
  }
  void Resume() {
    if (!suspended_) return;
    suspended_ = false;
    Unwatch();
    MHD_resume_connection(connection_);
    server_->RunSoon();
  }
  void Unwatch() {
    if (std::exchange(watched_, false)) server_->loop_.Remove(fd_);
  }
  static ssize_t Read(void* cls, uint64_t position, char* buffer, size_t size) {
    static_cast<void>(position);
    auto& self = *static_cast<Exchange*>(cls);
    if (self.left_.empty()) {
      auto more = self.closing_ || self.hung_up_ ? std::nullopt : self.more_();
      if (!more) return MHD_CONTENT_READER_END_OF_STREAM;
      self.left_ = *std::move(more);
    }
    if (self.left_.empty()) {
      self.Suspend();
      return 0;
    }
    const size_t length = std::min(size, self.left_.size());
    std::memcpy(buffer, self.left_.data(), length);
    self.left_.erase(0, length);
    return static_cast<ssize_t>(length);
  }
  static void Upgraded(void* cls, MHD_Connection* connection, void* state, const char* extra,
                       size_t extra_size, MHD_socket socket, MHD_UpgradeResponseHandle* handle) {
    static_cast<void>(connection);
    static_cast<void>(state);
    static_cast<void>(extra);
    static_cast<void>(extra_size);
    auto& self = *static_cast<Exchange*>(cls);
    UniqueFd copy(fcntl(socket, F_DUPFD_CLOEXEC, 0));
    MHD_upgrade_action(handle, MHD_UPGRADE_ACTION_CLOSE);
    self.server_->RunSoon();
    if (copy.valid() && self.take_ != nullptr) std::exchange(self.take_, nullptr)(std::move(copy));
  }

  HttpServer* server_;  // null once it is gone; whoever works on an answer may be slower
  MHD_Connection* connection_;
  const int fd_;
  unsigned status_ = 0;
  MHD_Response* response_ = nullptr;
  std::function<std::optional<std::string>()> more_;
  std::function<void(UniqueFd)> take_;
  std::string left_;  // of a stream
  bool suspended_ = false, watched_ = false, queued_ = false, streaming_ = false;
  bool hung_up_ = false, closing_ = false;
};

struct HttpCallbacks {
  using Shared = std::shared_ptr<HttpServer::Exchange>;

  static MHD_Result Access(void* cls, MHD_Connection* connection, const char* url,
                           const char* method, const char* /*version*/, const char* data,
                           size_t* size, void** state) {
    auto& server = *static_cast<HttpServer*>(cls);
    if (*state == nullptr) return Begin(server, connection, url, method, state);
    const Shared exchange = *static_cast<Shared*>(*state);
    std::string& body = exchange->request.body;
    if (*size > 0) {
      // A body over the limit is read to its end, within reason: a client that still sends would
      // not see an answer.
      constexpr uint64_t kMostDiscarded = 16 << 20;
      if (body.size() + *size > server.limits_.body || exchange->discarded > 0) {
        exchange->discarded += *size;
        body.clear();
      } else {
        body.append(data, *size);
      }
      *size = 0;
      return exchange->discarded > kMostDiscarded ? MHD_NO : MHD_YES;
    }
    if (!std::exchange(exchange->handled, true)) {
      if (exchange->discarded > 0) {
        ++server.counters_.too_large;
        exchange->Reply(MHD_HTTP_CONTENT_TOO_LARGE, server.refusals_.too_large, "application/json");
      } else {
        server.handler_(std::move(exchange->request), exchange);
      }
    }
    return exchange->Answer();
  }

  static MHD_Result Begin(HttpServer& server, MHD_Connection* connection, const char* url,
                          const char* method, void** state) {
    auto exchange = std::make_shared<HttpServer::Exchange>(server, connection);
    *state = new Shared(exchange);
    ++server.counters_.requests;
    HttpRequest& request = exchange->request;
    request.peer = PeerOf(SocketOf(connection));
    request.method = method;
    request.path = url;
    request.upgrade = Header(connection, MHD_HTTP_HEADER_UPGRADE);
    request.mode = Header(connection, "X-Partita-Mode");
    MHD_get_connection_values(
        connection, MHD_GET_ARGUMENT_KIND,
        [](void* cls, MHD_ValueKind, const char* key, const char* value) {
          auto& query = *static_cast<std::map<std::string, std::string>*>(cls);
          const auto name = DecodeUrl(key), text = DecodeUrl(value == nullptr ? "" : value);
          constexpr size_t kMost = 16;
          if (name && text && query.size() < kMost) query[*name] = *text;
          return MHD_YES;
        },
        &request.query);
    if (!server.TakeToken(request.peer.uid)) {
      ++server.counters_.too_many;
      exchange->handled = true;
      exchange->Reply(MHD_HTTP_TOO_MANY_REQUESTS, server.refusals_.too_many, "application/json");
      return exchange->Answer();
    }
    return MHD_YES;
  }

  static void Completed(void* /*cls*/, MHD_Connection* /*connection*/, void** state,
                        MHD_RequestTerminationCode /*code*/) {
    auto* exchange = static_cast<Shared*>(*state);
    if (exchange == nullptr) return;
    (*exchange)->Forget();
    delete exchange;
    *state = nullptr;
  }

  static void Connection(void* cls, MHD_Connection* connection, void** state,
                         MHD_ConnectionNotificationCode code) {
    auto& server = *static_cast<HttpServer*>(cls);
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
      const uid_t uid = PeerOf(SocketOf(connection)).uid;
      *state = new uid_t(uid);
      ++server.of_user_[uid];
      ++server.connections_;
      return;
    }
    auto* uid = static_cast<uid_t*>(*state);
    if (uid == nullptr) return;
    if (--server.of_user_[*uid] == 0) server.of_user_.erase(*uid);
    --server.connections_;
    delete uid;
    *state = nullptr;
  }

  static void Silent(void* /*cls*/, const char* /*format*/, va_list /*arguments*/) {}
  // Names stay encoded until they are taken apart.
  static size_t Keep(void* /*cls*/, MHD_Connection* /*connection*/, char* text) {
    return strlen(text);
  }
};

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Create(EventLoop& loop, UniqueFd listener,
                                                               const Limits& limits,
                                                               Refusals refusals, Handler handler) {
  std::unique_ptr<HttpServer> server(
      new HttpServer(loop, std::move(listener), limits, std::move(refusals), std::move(handler)));
  RETURN_IF_ERROR(server->Start());
  return server;
}

HttpServer::HttpServer(EventLoop& loop, UniqueFd listener, const Limits& limits, Refusals refusals,
                       Handler handler)
    : loop_(loop),
      listener_(std::move(listener)),
      limits_(limits),
      refusals_(std::move(refusals)),
      handler_(std::move(handler)) {}

absl::Status HttpServer::Start() {
  daemon_ = MHD_start_daemon(
      MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME | MHD_ALLOW_UPGRADE, 0,
      nullptr, nullptr, &HttpCallbacks::Access, this, MHD_OPTION_EXTERNAL_LOGGER,
      &HttpCallbacks::Silent, nullptr, MHD_OPTION_NOTIFY_COMPLETED, &HttpCallbacks::Completed,
      nullptr, MHD_OPTION_NOTIFY_CONNECTION, &HttpCallbacks::Connection, this,
      MHD_OPTION_UNESCAPE_CALLBACK, &HttpCallbacks::Keep, nullptr, MHD_OPTION_CONNECTION_LIMIT,
      static_cast<unsigned>(limits_.connections), MHD_OPTION_CONNECTION_TIMEOUT,
      limits_.idle_seconds, MHD_OPTION_END);
  const auto* info =
      daemon_ == nullptr ? nullptr : MHD_get_daemon_info(daemon_, MHD_DAEMON_INFO_EPOLL_FD);
  if (info == nullptr || info->epoll_fd < 0) return Internal("starting libmicrohttpd");
  epoll_ = info->epoll_fd;
  RETURN_IF_ERROR(loop_.Add(epoll_, EPOLLIN, [this](uint32_t) { Run(); }));
  return loop_.Add(listener_.get(), EPOLLIN, [this](uint32_t) { Accept(); });
}

HttpServer::~HttpServer() {
  loop_.Remove(listener_.get());
  for (const UniqueFd& fd : silent_) loop_.Remove(fd.get());
  if (daemon_ == nullptr) return;
  loop_.Remove(epoll_);
  const std::vector<Exchange*> waiting(exchanges_.begin(), exchanges_.end());
  for (Exchange* exchange : waiting) exchange->GiveUp();
  MHD_run(daemon_);  // lets go of what was suspended, which may not be there when it stops
  MHD_run(daemon_);
  MHD_stop_daemon(daemon_);
  for (Exchange* exchange : exchanges_) exchange->Detach();
}

void HttpServer::Accept() {
  constexpr int kAtOnce = 16;
  for (int i = 0; i < kAtOnce; ++i) {
    UniqueFd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd.valid()) return;
    ++counters_.accepted;
    const int number = fd.get();
    silent_.push_back(std::move(fd));
    if (!loop_.Add(number, EPOLLIN, [this, number](uint32_t) { HandOver(number); }).ok()) {
      silent_.pop_back();
    }
    if (silent_.size() > limits_.silent) {
      loop_.Remove(silent_.front().get());
      silent_.pop_front();
      ++counters_.evicted;
    }
  }
}

// It has said something: from here on libmicrohttpd has it, and its limits hold.
void HttpServer::HandOver(int number) {
  const auto it = std::find_if(silent_.begin(), silent_.end(),
                               [number](const UniqueFd& fd) { return fd.get() == number; });
  if (it == silent_.end()) return;
  loop_.Remove(number);
  UniqueFd fd = std::move(*it);
  silent_.erase(it);
  char byte = 0;
  if (recv(fd.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0) return;  // it has left
  const uid_t uid = PeerOf(fd.get()).uid;
  const auto user = of_user_.find(uid);
  if (connections_ >= limits_.connections ||
      (user != of_user_.end() && user->second >= limits_.of_one_user)) {
    ++counters_.refused_connections;
    return;
  }
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (MHD_add_connection(daemon_, fd.Release(), reinterpret_cast<const sockaddr*>(&address),
                         sizeof(sa_family_t)) != MHD_YES) {
    ++counters_.refused_connections;  // it has closed the socket
    return;
  }
  Run();
}

void HttpServer::RunSoon() {
  if (std::exchange(run_posted_, true)) return;
  loop_.Post([this, alive = std::weak_ptr<bool>(alive_)] {
    if (alive.expired()) return;
    run_posted_ = false;
    Run();
  });
}

void HttpServer::Run() {
  MHD_run(daemon_);
  MHD_UNSIGNED_LONG_LONG wait = 0;
  if (MHD_get_timeout(daemon_, &wait) != MHD_YES) return;
  if (wait == 0) return RunSoon();
  constexpr uint64_t kLongest = 30'000;
  wait = std::min<uint64_t>(wait, kLongest);
  const uint64_t at = NowMs() + wait;
  if (timer_at_ms_ != 0 && timer_at_ms_ <= at) return;
  timer_at_ms_ = at;
  loop_.After(static_cast<uint32_t>(wait), [this, at, alive = std::weak_ptr<bool>(alive_)] {
    if (alive.expired() || timer_at_ms_ != at) return;
    timer_at_ms_ = 0;
    Run();
  });
}

bool HttpServer::TakeToken(uid_t uid) {
  constexpr size_t kMostUsers = 4096;
  const uint64_t now = NowMs();
  if (buckets_.size() > kMostUsers) buckets_.clear();
  auto [it, fresh] = buckets_.try_emplace(uid, Bucket{.tokens = limits_.burst, .at_ms = now});
  Bucket& bucket = it->second;
  bucket.tokens = std::min(limits_.burst, bucket.tokens + static_cast<double>(now - bucket.at_ms) /
                                                              1000 * limits_.requests_per_second);
  bucket.at_ms = now;
  if (bucket.tokens < 1) return false;
  bucket.tokens -= 1;
  return true;
}

}  // namespace partita::service
