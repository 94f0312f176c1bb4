// Conversion of the plain specs (spec.h) to and from their Protobuf form. Unknown fields are dropped; out-of-range
// enumerators become the default.
#pragma once

#include "sentry/control/control.pb.h"
#include "sentry/control/spec.h"

namespace amber::control {

void Encode(const amber::ProcessSpec& from, Process* to);
void Encode(const amber::ContainerSpec& from, Container* to);
amber::ProcessSpec Decode(const Process& from);
amber::ContainerSpec Decode(const Container& from);

}  // namespace amber::control
