import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from './program.ts'

/* What makes a namespace a router: a bridge that others are plugged into, forwarding, rules. */

/** Where Docker has loaded br_netfilter, a bridge would apply the router's rules by itself, and drop what goes back where it came from. */
export const FORWARDING = [
  'echo 1 > /proc/sys/net/ipv4/ip_forward',
  'echo 1 > /proc/sys/net/ipv6/conf/all/forwarding',
  'for call in /proc/sys/net/bridge/bridge-nf-call-*tables; do [ ! -e "$call" ] || echo 0 > "$call"; done',
]

export function bridge(name: string, addresses: readonly string[]): string[] {
  return [
    `ip link add ${name} type bridge`,
    ...addresses.map((address) => `ip addr add ${address} dev ${name}${address.includes(':') ? ' nodad' : ''}`),
    `ip link set ${name} up`,
  ]
}

/** Runs the lines of a shell script in a namespace. */
export async function script(namespace: string, lines: readonly string[]): Promise<void> {
  await text(['ip', 'netns', 'exec', namespace, 'sh', '-ec', lines.join('\n')])
}

/** From a file: nft cannot read the socket pair that a child's stdin is. */
export async function applyRules(namespace: string, rules: string): Promise<void> {
  if (rules === '') return
  const folder = await mkdtemp(join(tmpdir(), 'hedgerow-lab-'))
  try {
    await writeFile(join(folder, 'rules.nft'), rules)
    await text(['ip', 'netns', 'exec', namespace, 'nft', '-f', join(folder, 'rules.nft')])
  } finally {
    await rm(folder, { recursive: true })
  }
}
