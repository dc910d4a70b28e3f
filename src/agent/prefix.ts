import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { isMeshError, MeshError } from '../core/errors.ts'
import { RESOLVER_VIP, vipRange, vipToIPv4, type VipRange } from '../core/model/address.ts'
import { Ops, type OpsOptions } from '../roles/ops-server.ts'

/** Where an agent shows its health on its own prefix; holding this address is what claims the prefix. */
const OPS_PORT = 7473
/** Held while the claim is made: the address of the claim may be shared, with an agent that takes over, and this one not. */
const CLAIM_PORT = 7474

export interface ClaimedPrefix {
  loopback: VipRange
  ops: Ops
}

/**
 * Takes the first free loopback prefix, so that several agents on one machine keep apart by themselves: the one it had
 * last time, else 127.16.0.0/12, 127.32.0.0/12, … Programs configured with its resolver still find it after a restart.
 * @throws MeshError LISTEN_FAILED when the wanted one, or every one, is taken.
 */
export async function claimPrefix(
  wanted: string,
  dir: string,
  ops: Pick<OpsOptions, 'metrics' | 'ready'>,
): Promise<ClaimedPrefix> {
  const remembered = join(dir, 'prefix')
  const candidates = wanted === 'auto' ? [...lastTime(remembered), ...LOOPBACK_PREFIXES] : [wanted]
  for (const cidr of candidates) {
    const loopback = vipRange(cidr)
    try {
      const host = vipToIPv4(loopback, RESOLVER_VIP)
      await using _claiming = await alone(host)
      const claimed = await Ops.start({ ...ops, host, port: OPS_PORT })
      if (wanted === 'auto') await writeFile(remembered, cidr)
      return { loopback, ops: claimed }
    } catch (error) {
      if (!isMeshError(error, 'LISTEN_FAILED') || wanted !== 'auto') throw error
    }
  }
  throw new MeshError('LISTEN_FAILED', {
    address: `127.16.0.0/12 … 127.240.0.0/12, port ${OPS_PORT}`,
    reason: 'each belongs to another agent on this machine',
  })
}

/** The prefix of the agent that is taken over from; its claim goes on without a moment in which another could have it. */
export async function inheritPrefix(cidr: string, ops: Pick<OpsOptions, 'metrics' | 'ready'>): Promise<ClaimedPrefix> {
  const loopback = vipRange(cidr)
  const host = vipToIPv4(loopback, RESOLVER_VIP)
  return { loopback, ops: await Ops.start({ ...ops, host, port: OPS_PORT, isBeside: true }) }
}

/** @throws MeshError LISTEN_FAILED when another agent claims in this moment. */
async function alone(host: string): Promise<AsyncDisposable> {
  const server = createServer((socket) => socket.destroy())
  try {
    await once(server.listen({ host, port: CLAIM_PORT, exclusive: true }), 'listening')
  } catch (cause) {
    throw new MeshError('LISTEN_FAILED', { address: `${host}:${CLAIM_PORT}` }, { cause })
  }
  return server
}

const LOOPBACK_PREFIXES = Array.from({ length: 15 }, (_, block) => `127.${16 * (block + 1)}.0.0/12`)

function lastTime(path: string): string[] {
  try {
    const cidr = readFileSync(path, 'utf8').trim()
    return LOOPBACK_PREFIXES.includes(cidr) ? [cidr] : []
  } catch {
    return []
  }
}
