// Going through a tree of control groups: for the files that cgroup.h is made of.
#pragma once

#include "sentry/kernel/cgroup.h"

namespace amber {

template <typename F>
void Cgroup::ForEach(F visit) const {
  visit(*this);
  for (const auto& [name, child] : children_) child->ForEach(visit);
}

template <typename F>
void Cgroup::ForEachMember(F visit) const {
  ForEach([&](const Cgroup& c) {
    for (ThreadGroup* group : c.members_) visit(*group);
  });
}

}  // namespace amber
