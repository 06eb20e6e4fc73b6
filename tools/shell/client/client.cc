#include "tools/shell/client/client.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <utility>

namespace partita::shell {
namespace {

constexpr size_t kMaxAnswer = size_t{64} << 20;
constexpr size_t kMaxHead = 16 << 10;

ErrorRecord Cancelled() {
  ErrorRecord error;
  error.id = "Cancelled";
  error.category = ErrorCategory::kCancelled;
  error.message = "ended before the service had answered";
  return error;
}

ErrorRecord BadAnswer(std::string what) {
  ErrorRecord error;
  error.id = "service.answer";
  error.message = "the service's answer is not understood";
  error.cause.push_back(std::move(what));
  return error;
}

Json Parsed(std::string_view text) { return Json::parse(text, nullptr, false); }

}  // namespace

struct Client::Handles {
  CURL* easy = curl_easy_init();
  CURLM* multi = curl_multi_init();
  ~Handles() {
    curl_easy_cleanup(easy);
    curl_multi_cleanup(multi);
  }
};

struct Client::Request {
  std::string method;
  std::string path;
  std::string body;
  // Set for a stream: takes each line of a good answer.
  const std::function<bool(const Json&)>* sink = nullptr;

  CURL* easy = nullptr;
  std::string answer;
  long status = 0;
  bool ended_by_sink = false;
  std::optional<ErrorRecord> error = {};

  static size_t Write(char* data, size_t /*one*/, size_t size, void* self) {
    return static_cast<Request*>(self)->Take({data, size});
  }
  size_t Take(std::string_view data) {
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    answer += data;
    if (answer.size() > kMaxAnswer) {
      error = BadAnswer("it is longer than 64 MiB");
      return 0;
    }
    if (sink == nullptr || status != 200) return data.size();
    size_t begin = 0;
    for (size_t end = answer.find('\n'); end != std::string::npos; end = answer.find('\n', begin)) {
      const Json line = Parsed(std::string_view(answer).substr(begin, end - begin));
      begin = end + 1;
      if (line.is_discarded()) {
        error = BadAnswer("a line of the stream is not JSON");
        return 0;
      }
      if (!(*sink)(line)) {
        ended_by_sink = true;
        return 0;
      }
    }
    answer.erase(0, begin);
    return data.size();
  }
};

Client::Client(Endpoint endpoint, const CancelToken* cancel)
    : endpoint_(std::move(endpoint)), cancel_(cancel) {}
Client::~Client() = default;

std::optional<ErrorRecord> Client::EnsureStarted() {
  if (handles_ == nullptr) handles_ = std::make_unique<Handles>();
  if (!endpoint_.per_user || Answers(endpoint_.socket)) return std::nullopt;
  const std::string program = ServiceProgram();
  if (program.empty()) {
    return Unreachable(endpoint_.socket, "there is no partitad beside this program to start",
                       "start partitad, or set PARTITA_SOCKET");
  }
  return StartService(program, endpoint_.socket, *cancel_);
}

std::optional<ErrorRecord> Client::Perform(Request* request) {
  CURL* easy = handles_->easy;
  curl_easy_reset(easy);
  request->easy = easy;
  const std::string url = "http://partita" + request->path;
  curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, endpoint_.socket.c_str());
  curl_easy_setopt(easy, CURLOPT_URL, url.c_str());
  curl_easy_setopt(easy, CURLOPT_PROXY, "");  // a proxy of the environment is not meant
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT, 10L);
  curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request->method.c_str());
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, &Request::Write);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, request);
  curl_slist* headers = curl_slist_append(nullptr, "Expect:");
  if (!request->body.empty()) {
    headers = curl_slist_append(headers, "Content-Type: application/json");
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->body.c_str());
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
                     static_cast<curl_off_t>(request->body.size()));
  }
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
  curl_multi_add_handle(handles_->multi, easy);
  int running = 1;
  while (running != 0 && !cancel_->cancelled()) {
    curl_multi_perform(handles_->multi, &running);
    if (running == 0) break;
    curl_waitfd cancelled{cancel_->fd(), CURL_WAIT_POLLIN, 0};
    curl_multi_poll(handles_->multi, &cancelled, 1, 60'000, nullptr);
  }
  CURLcode code = CURLE_ABORTED_BY_CALLBACK;
  int left = 0;
  while (const CURLMsg* message = curl_multi_info_read(handles_->multi, &left))
    if (message->msg == CURLMSG_DONE) code = message->data.result;
  curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &request->status);
  curl_multi_remove_handle(handles_->multi, easy);
  curl_slist_free_all(headers);
  if (request->error) return request->error;
  if (cancel_->cancelled() && running != 0) return Cancelled();
  if (code == CURLE_OK || request->ended_by_sink) return std::nullopt;
  return Unreachable(endpoint_.socket, curl_easy_strerror(code),
                     "partita host says what this machine offers; is the service running?");
}

Result<Json> Client::Call(std::string_view method, const std::string& path, const Json& body) {
  if (auto error = EnsureStarted()) return *std::move(error);
  Request request;
  request.method = method;
  request.path = path;
  // Text that is no UTF-8 is the user's mistake, and the service's to refuse.
  if (!body.is_null()) request.body = body.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (auto error = Perform(&request)) return *std::move(error);
  Json answer = request.answer.empty() ? Json() : Parsed(request.answer);
  if (request.status >= 400 || request.status < 200)
    return ErrorFrom(answer, static_cast<int>(request.status));
  if (answer.is_discarded()) return BadAnswer("it is not JSON");
  return answer;
}

std::optional<ErrorRecord> Client::Stream(const std::string& path,
                                          const std::function<bool(const Json&)>& sink) {
  if (auto error = EnsureStarted()) return error;
  Request request;
  request.method = "GET";
  request.path = path;
  request.sink = &sink;
  if (auto error = Perform(&request)) return error;
  if (request.status >= 400)
    return ErrorFrom(Parsed(request.answer), static_cast<int>(request.status));
  return std::nullopt;
}

Result<UniqueFd> Client::OpenConsole(const std::string& path, std::string_view mode) {
  if (auto error = EnsureStarted()) return *std::move(error);
  // libcurl makes the connection and then leaves it to us: an upgrade to a protocol of one's own is
  // not among what it speaks.
  const std::unique_ptr<CURL, void (*)(CURL*)> easy(curl_easy_init(), curl_easy_cleanup);
  curl_easy_setopt(easy.get(), CURLOPT_UNIX_SOCKET_PATH, endpoint_.socket.c_str());
  curl_easy_setopt(easy.get(), CURLOPT_URL, "http://partita/");
  curl_easy_setopt(easy.get(), CURLOPT_PROXY, "");
  curl_easy_setopt(easy.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy.get(), CURLOPT_CONNECT_ONLY, 1L);
  if (const CURLcode code = curl_easy_perform(easy.get()); code != CURLE_OK)
    return Unreachable(endpoint_.socket, curl_easy_strerror(code), "is the service running?");
  curl_socket_t socket = CURL_SOCKET_BAD;
  curl_easy_getinfo(easy.get(), CURLINFO_ACTIVESOCKET, &socket);
  UniqueFd fd(fcntl(socket, F_DUPFD_CLOEXEC, 0));
  std::string head = "POST " + path + " HTTP/1.1\r\nHost: partita\r\nConnection: Upgrade\r\n";
  head += "Upgrade: console\r\nX-Partita-Mode: ";
  head += mode;
  head += "\r\nContent-Length: 0\r\n\r\n";
  if (send(fd.get(), head.data(), head.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(head.size()))
    return Unreachable(endpoint_.socket, "it closed the connection", "");
  std::string answer;
  // Byte by byte: what follows the head is the console's.
  while (answer.find("\r\n\r\n") == std::string::npos && answer.size() < kMaxHead) {
    std::array<pollfd, 2> wanted = {{{fd.get(), POLLIN, 0}, {cancel_->fd(), POLLIN, 0}}};
    poll(wanted.data(), wanted.size(), -1);
    if (cancel_->cancelled()) return Cancelled();
    char c = 0;
    const ssize_t got = recv(fd.get(), &c, 1, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (got <= 0) return Unreachable(endpoint_.socket, "it closed the connection", "");
    answer += c;
  }
  if (answer.substr(0, 13) == "HTTP/1.1 101 ") return fd;
  // A refusal explains itself as ever.
  const size_t blank = answer.find(' ');
  const int status = blank == std::string::npos ? 0 : std::atoi(answer.c_str() + blank + 1);
  std::string body;
  std::array<char, 4096> buffer{};
  for (ssize_t got = 1; got > 0 && body.size() < kMaxHead && Parsed(body).is_discarded();) {
    pollfd wanted{fd.get(), POLLIN, 0};
    if (poll(&wanted, 1, 2000) <= 0) break;
    got = recv(fd.get(), buffer.data(), buffer.size(), 0);
    if (got > 0) body.append(buffer.data(), static_cast<size_t>(got));
  }
  return ErrorFrom(Parsed(body), status);
}

}  // namespace partita::shell
