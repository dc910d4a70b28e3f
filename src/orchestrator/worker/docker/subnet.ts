/** The IPv4 addresses of a network; `undefined` when this is not one. */
export interface Subnet {
  readonly cidr: string
  readonly first: number
  readonly last: number
}

/** `172.18.0.0/16`, as engines write it. Smaller than /29 there is no room for containers. */
export function subnetOf(cidr: string): Subnet | undefined {
  const range = rangeOf(cidr)
  const count = range === undefined ? 0 : range.last - range.first + 1
  return count < 8 || count > 2 ** 24 ? undefined : range
}

/** What a range of containers may not overlap, and whose that is. */
export interface Foreign {
  cidr: string
  /** For people: `the VIPs`. */
  of: string
}

/** Why containers cannot have these addresses. */
export function collision({ cidr, first, last }: Subnet, others: readonly Foreign[]): string | undefined {
  const met = others.find((other) => {
    const range = rangeOf(other.cidr)
    return range !== undefined && range.first <= last && range.last >= first
  })
  return met && `${cidr}, the range of containers, overlaps ${met.cidr}, ${met.of}`
}

function rangeOf(cidr: string): Subnet | undefined {
  const [, address = '', length] = /^(\d+\.\d+\.\d+\.\d+)\/(\d+)$/.exec(cidr) ?? []
  const bits = Number(length)
  const number = numberOf(address)
  if (number === undefined || bits > 32) return undefined
  const size = 2 ** (32 - bits)
  const first = number - (number % size)
  return { cidr, first, last: first + size - 1 }
}

export function holds({ first, last }: Subnet, address: string): boolean {
  const number = numberOf(address)
  return number !== undefined && number >= first && number <= last
}

/** An address that is in none of these: not the network’s own, not the broadcast address. The last one again, where it can be. */
export function freeAddress(
  { first, last }: Subnet,
  taken: ReadonlySet<string>,
  { preferred, random }: { preferred: string | undefined; random: () => number },
): string | undefined {
  if (preferred !== undefined && !taken.has(preferred)) return preferred
  const count = last - first - 1
  const start = Math.floor(random() * count)
  for (let i = 0; i < Math.min(count, taken.size + 1); i++) {
    const address = textOf(first + 1 + ((start + i) % count))
    if (!taken.has(address)) return address
  }
  return undefined
}

/** By convention the first address is the gateway. */
export function gatewayOf({ first }: Subnet): string {
  return textOf(first + 1)
}

function numberOf(text: string): number | undefined {
  const parts = text.split('.').map(Number)
  if (parts.length !== 4 || parts.some((part) => !Number.isInteger(part) || part < 0 || part > 255)) return undefined
  return parts.reduce((sum, part) => sum * 256 + part, 0)
}

function textOf(number: number): string {
  return [24, 16, 8, 0].map((shift) => Math.floor(number / 2 ** shift) % 256).join('.')
}
