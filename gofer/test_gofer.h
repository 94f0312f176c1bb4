// A gofer in the test's own process: a temporary directory on the host as attach point "root" (and the same, read-only,
// as "frozen"), server threads without confinement, and a client. For tests and benchmarks.
#pragma once

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gofer/client.h"
#include "gofer/server.h"

namespace amber::gofer {

class TestGofer {
 public:
  struct Options {
    int channels = 2;
    uint32_t max_nodes = 512;
    bool allow_devices = false;
    bool allow_fifos = false;
    bool allow_sockets = false;
    bool allow_directories = false;
  };
  explicit TestGofer(Options options);
  TestGofer() : TestGofer(Options{}) {}
  ~TestGofer();

  Client& client() { return *client_; }
  Server& server() { return *server_; }
  // The host directory behind the attach points; removed at the end.
  const std::string& directory() const { return directory_; }
  std::string Path(const std::string& name) const { return directory_ + "/" + name; }
  // The root node of "root" and of "frozen".
  NodeId root() const { return root_; }
  NodeId frozen() const { return frozen_; }
  // A further raw channel, served by its own thread.
  UniqueFd NewChannel();

 private:
  void StartServing(UniqueFd socket);

  std::string directory_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<Client> client_;
  std::vector<std::thread> threads_;
  NodeId root_ = kNoNode;
  NodeId frozen_ = kNoNode;
};

}  // namespace amber::gofer
