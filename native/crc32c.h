#pragma once

#include <cstddef>
#include <cstdint>

namespace eighteen {

// CRC-32C (Castagnoli, RFC 3720 appendix B.4) of `length` bytes, by the processor's instruction where it has one.
uint32_t crc32c(const uint8_t* bytes, size_t length);

}  // namespace eighteen
