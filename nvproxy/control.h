// One RM control in progress, for the handlers of controls; not for others.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "nvproxy/call.h"

namespace amber::nvproxy {

// A list that a pointer in the parameters leads to. The proxy has it in its own memory while the host works on it.
struct NestedList {
  size_t offset;  // of the pointer
  uint64_t guest;
  std::vector<std::byte> bytes;
  bool out;
};

struct ControlCall {
  Call& call;
  const ClientLock& lock;
  const Entry& entry;
  RmControl request;
  Block& params;
  Client& client;  // locked
  Object& object;
  std::vector<NestedList> lists;
  std::vector<std::unique_ptr<FdField>> fds;
  std::shared_ptr<OpenFile> fd_target;
  std::vector<uint32_t> saved_ids;
  // What a share control does to the client, once the host agreed.
  ShareList new_shares;
  SharePolicy guest_policy{};
  // The proxy has answered by itself.
  bool answered = false;
};

// Before the host: checks and translates. kNvOk, a refusal, or an errno (EFAULT).
ErrnoOr<uint32_t> PrepareControl(ControlCall& c);
// After the host said kNvOk: filters, clamps, records. Lists have come back already.
void FinishControl(ControlCall& c);

// control_lists.cc
ErrnoOr<uint32_t> PrepareLists(ControlCall& c);
// control_filter.cc
ErrnoOr<uint32_t> PrepareFilter(ControlCall& c);
void FinishFilter(ControlCall& c);

}  // namespace amber::nvproxy
