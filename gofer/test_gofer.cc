#include "gofer/test_gofer.h"

#include <fcntl.h>
#include <stdlib.h>

#include <filesystem>
#include <utility>

#include "sentry/base/check.h"

namespace amber::gofer {
namespace {

AttachPoint Point(const char* name, const std::string& path, const TestGofer::Options& options) {
  AttachPoint point;
  point.name = name;
  point.root = UniqueFd(open(path.c_str(), O_PATH | O_CLOEXEC));
  AMBER_CHECK(point.root.valid());
  point.allow_devices = options.allow_devices;
  point.allow_fifos = options.allow_fifos;
  point.allow_connect = point.allow_bind = options.allow_sockets;
  point.allow_directories = options.allow_directories;
  return point;
}

}  // namespace

TestGofer::TestGofer(Options options) {
  const char* base = getenv("TEST_TMPDIR");
  directory_ = std::string(base != nullptr ? base : "/tmp") + "/gofer.XXXXXX";
  AMBER_CHECK(mkdtemp(directory_.data()) != nullptr);
  std::vector<AttachPoint> points;
  points.push_back(Point("root", directory_, options));
  points.push_back(Point("frozen", directory_, options));
  points.back().read_only = true;
  server_ = std::make_unique<Server>(std::move(points), OpenProcSelfFd().value(), options.max_nodes);
  std::vector<UniqueFd> ends;
  for (int i = 0; i < options.channels; ++i) ends.push_back(NewChannel());
  client_ = std::make_unique<Client>(std::move(ends));
  root_ = client_->Attach("root").value().root.id;
  frozen_ = client_->Attach("frozen").value().root.id;
}

TestGofer::~TestGofer() {
  client_.reset();
  for (std::thread& thread : threads_) thread.join();
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

UniqueFd TestGofer::NewChannel() {
  ChannelPair pair = MakeChannel().value();
  StartServing(std::move(pair.server));
  return std::move(pair.client);
}

void TestGofer::StartServing(UniqueFd socket) {
  threads_.emplace_back([this, end = std::move(socket)] {
    AMBER_CHECK(server_->PrepareThread().ok());
    server_->Serve(end.get());
  });
}

}  // namespace amber::gofer
