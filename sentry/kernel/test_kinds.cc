// Unit tests load no images.
#include "checkpoint/state.h"

namespace amber::state {
Loader::Factory FactoryOf(Kind) { return nullptr; }
}  // namespace amber::state
