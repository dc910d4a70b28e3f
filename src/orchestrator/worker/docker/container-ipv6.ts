import { readFileSync } from 'node:fs'
import { parseIPv6, printIPv6 } from '../../../core/model/address.ts'

/*
 * IPv6 of containers: a /64 of the agent's own, whose last 32 bits are the IPv4 address of the container, so that either is known from
 * the other.
 *
 *     172.18.0.9   fdxx:xxxx:xxxx::ac12:9
 */

/** Four hextets. */
export type Prefix6 = readonly [number, number, number, 0]

/** Out of 10 hexadecimal digits that no other agent has (RFC 4193 §3.2). */
export function prefix6(digits: string): Prefix6 {
  const number = (from: number, to: number) => Number.parseInt(digits.slice(from, to), 16)
  return [0xfd00 | number(0, 2), number(2, 6), number(6, 10), 0]
}

export function cidr6(prefix: Prefix6): string {
  return `${printIPv6([...prefix, 0, 0, 0, 0])}/64`
}

export function gateway6(prefix: Prefix6): string {
  return printIPv6([...prefix, 0, 0, 0, 1])
}

export function toIPv6(prefix: Prefix6, ipv4: string): string {
  const [a = 0, b = 0, c = 0, d = 0] = ipv4.split('.').map(Number)
  return printIPv6([...prefix, 0, 0, a * 256 + b, c * 256 + d])
}

/** `undefined`: it is not in the prefix. */
export function toIPv4(prefix: Prefix6, address: string): string | undefined {
  const words = parseIPv6(address)
  if (words === undefined || prefix.some((word, i) => words[i] !== word)) return undefined
  const [high = 0, low = 0] = words.slice(6)
  return [high >> 8, high & 255, low >> 8, low & 255].join('.')
}

/** RTF_ADDRCONF of `linux/ipv6_route.h`: learnt from a router. */
const LEARNT = 0x40000

/**
 * An engine that is asked for IPv6 makes the machine a router, and a router does not listen to the announcements of others (RFC 4861 §6.2.3): a
 * machine that has its way out from them would lose it. `undefined`: this one keeps it.
 */
export function wouldLoseRoute(
  forwarding = read('/proc/sys/net/ipv6/conf/all/forwarding'),
  routes = read('/proc/net/ipv6_route'),
): string | undefined {
  if (forwarding.trim() === '1') return undefined
  const isLearnt = routes.split('\n').some((line) => {
    const [destination = '', length, , , , , , , flags = '0'] = line.trim().split(/\s+/)
    return /^0{32}$/.test(destination) && length === '00' && (Number.parseInt(flags, 16) & LEARNT) !== 0
  })
  return isLearnt
    ? 'this machine has its IPv6 route from router advertisements, which a router would ignore'
    : undefined
}

function read(path: string): string {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return ''
  }
}
