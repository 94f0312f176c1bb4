// Release agents of control groups of the first version (sentry/kernel/cgroup_tree.h).
#pragma once

namespace amber {

// Once, before the first container.
void ProvideReleaseAgents();

}  // namespace amber
