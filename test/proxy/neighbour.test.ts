import { spawnSync } from 'node:child_process'
import t from 'tap'
import { hasTool } from '../../src/lab/system-tools.ts'

/** Who gets through to a node in host mode: its own programs, and neighbours on interfaces that the operator listed. */
const canIsolate = spawnSync('unshare', ['-Urn', 'true']).status === 0
const skip =
  canIsolate && ['ip', 'nsenter', 'nft'].every(hasTool) ? false : 'needs user namespaces, ip, nsenter and nft'

interface Results {
  local: Record<string, string>
  remote: Record<string, string>
}

function tryFrom(options: { interfaces: string[]; hasNft: boolean }): { found: Results; stderr: string } {
  const argv = ['-Urn', process.execPath, `${import.meta.dirname}/victim.ts`, JSON.stringify(options)]
  const { stdout, stderr } = spawnSync('unshare', argv, { encoding: 'utf8', timeout: 60_000 })
  return { found: JSON.parse(stdout || '{"local":{},"remote":{}}') as Results, stderr }
}

const LISTENERS = [
  'VIP, TCP, IPv4',
  'VIP, TCP, IPv6',
  'VIP, UDP, IPv4',
  'VIP, UDP, IPv6',
  'resolver, UDP',
  'resolver, TCP',
  'SOCKS proxy',
  'HTTP proxy',
]

for (const hasNft of [true, false]) {
  const by = hasNft ? 'nftables and by source address' : 'source address alone'
  t.test(`a neighbour that routes the VIPs to this node is refused by ${by}`, { skip }, async (t) => {
    const { found, stderr } = tryFrom({ interfaces: [], hasNft })
    for (const listener of LISTENERS) {
      t.equal(found.local[listener], 'answered', `${listener} answers a program of this machine ${stderr}`)
      t.ok(found.remote[listener], `${listener} was tried`)
      t.not(found.remote[listener], 'answered', `${listener} does not answer the neighbour: ${found.remote[listener]}`)
    }
  })

  t.test(`a neighbour on a listed interface may call, with ${by}`, { skip }, async (t) => {
    const { found, stderr } = tryFrom({ interfaces: ['v0'], hasNft })
    for (const listener of LISTENERS.filter((each) => !each.endsWith('proxy'))) {
      t.equal(found.remote[listener], 'answered', `${listener} ${stderr}`)
    }
  })
}
