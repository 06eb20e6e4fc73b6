// HTTP/1.1 on a Unix socket, by libmicrohttpd, inside the service's event loop: one thread, nothing
// blocks. Who asks is known by SO_PEERCRED. Everything that arrives is a stranger's: connections
// that say nothing are held outside and the oldest goes when there are too many; connections of one
// user, bodies, and requests in a second are limited; a client that does not read is cut off.
#ifndef PARTITA_TOOLS_SERVICE_HTTP_SERVER_H_
#define PARTITA_TOOLS_SERVICE_HTTP_SERVER_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/event_loop.h"

struct MHD_Connection;
struct MHD_Daemon;

namespace partita::service {

struct HttpPeer {
  uid_t uid = static_cast<uid_t>(-1);
  gid_t gid = static_cast<gid_t>(-1);
  pid_t pid = 0;
  std::vector<gid_t> groups;
};

struct HttpRequest {
  HttpPeer peer;
  std::string method;
  std::string path;                          // as it came, still encoded
  std::map<std::string, std::string> query;  // decoded
  std::string body;
  std::string upgrade, mode;  // headers Upgrade and X-Partita-Mode
};

// One request's way back. Answered once, at once or later; what comes after is dropped, and so is
// everything once the client is gone. Loop thread only.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  virtual void Reply(int status, std::string body, std::string_view type = "application/json") = 0;
  // An answer without an end. `more` gives what there is (empty: nothing now), nullopt to end it;
  // Poke says that there may be more.
  virtual void Stream(std::string_view type, std::function<std::optional<std::string>()> more) = 0;
  virtual void Poke() = 0;
  // 101: `take` gets a duplicate of the socket, from which nothing was read behind the request, and
  // which stays open when this program lets go of its own.
  virtual void Upgrade(std::string_view protocol, std::function<void(UniqueFd socket)> take) = 0;
  [[nodiscard]] virtual bool gone() const = 0;
};

class HttpServer {
 public:
  struct Limits {
    size_t silent = 64;        // connections that have not said anything yet
    size_t connections = 256;  // the rest
    size_t of_one_user = 96;
    size_t body = 256 << 10;
    double requests_per_second = 500, burst = 1000;  // of one user
    unsigned idle_seconds = 20;  // on a request that does not go on, or an answer nobody reads
  };
  struct Counters {
    uint64_t requests = 0, accepted = 0, evicted = 0, refused_connections = 0, too_large = 0,
             too_many = 0;
  };
  using Handler = std::function<void(HttpRequest, std::shared_ptr<HttpExchange>)>;
  // What a request over the body limit, or over the rate, is answered with.
  struct Refusals {
    std::string too_large, too_many;
  };
  static absl::StatusOr<std::unique_ptr<HttpServer>> Create(EventLoop& loop, UniqueFd listener,
                                                            const Limits& limits, Refusals refusals,
                                                            Handler handler);
  ~HttpServer();
  [[nodiscard]] const Counters& counters() const { return counters_; }
  [[nodiscard]] size_t connections() const { return connections_; }

 private:
  class Exchange;
  struct Bucket {
    double tokens = 0;
    uint64_t at_ms = 0;
  };
  HttpServer(EventLoop& loop, UniqueFd listener, const Limits& limits, Refusals refusals,
             Handler handler);
  absl::Status Start();
  void Accept();
  void HandOver(int fd);
  void Run();      // lets libmicrohttpd do what there is to do
  void RunSoon();  // from inside of its callbacks
  bool TakeToken(uid_t uid);
  friend struct HttpCallbacks;  // what libmicrohttpd calls

  EventLoop& loop_;
  UniqueFd listener_;
  const Limits limits_;
  const Refusals refusals_;
  const Handler handler_;
  MHD_Daemon* daemon_ = nullptr;
  int epoll_ = -1;
  std::list<UniqueFd> silent_;  // oldest first
  std::set<Exchange*> exchanges_;
  std::map<uid_t, size_t> of_user_;
  std::map<uid_t, Bucket> buckets_;
  size_t connections_ = 0;
  bool run_posted_ = false;
  uint64_t timer_at_ms_ = 0;  // 0: none
  Counters counters_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace partita::service

#endif  // PARTITA_TOOLS_SERVICE_HTTP_SERVER_H_
