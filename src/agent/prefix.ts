import { once } from 'node:events'
import { createServer } from 'node:net'
import { isMeshError, MeshError } from '../core/errors.ts'
import type { KeptFile } from '../core/kit/kept-file.ts'
import { RESOLVER_VIP, vipRange, vipToIPv4, type VipRange } from '../core/model/address.ts'
import { Ops, type OpsOptions } from '../roles/ops-server.ts'

/** The health port on the agent's own prefix; the agent that is bound to it has the prefix. */
const OPS_PORT = 7473
/** Bound while a prefix is claimed. The health address is shared with an agent that takes over; this one is not. */
const CLAIM_PORT = 7474

export interface ClaimedPrefix {
  loopback: VipRange
  ops: Ops
}

/**
 * Claims the first free loopback prefix, so that several agents on one machine do not collide: the one of last time, else
 * 127.16.0.0/12, 127.32.0.0/12, … After a restart, programs still find the resolver where they were configured to.
 * @throws MeshError LISTEN_FAILED when the configured prefix, or every one, is taken
 */
export async function claimPrefix(
  wanted: string,
  file: KeptFile,
  ops: Pick<OpsOptions, 'metrics' | 'ready'>,
): Promise<ClaimedPrefix> {
  const candidates = wanted === 'auto' ? [...remembered(file), ...LOOPBACK_PREFIXES] : [wanted]
  for (const cidr of candidates) {
    const loopback = vipRange(cidr)
    try {
      const host = vipToIPv4(loopback, RESOLVER_VIP)
      await using _claim = await lockClaim(host)
      const claimed = await Ops.start({ ...ops, host, port: OPS_PORT })
      if (wanted === 'auto') await file.put(cidr)
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

/** Takes over the prefix of the predecessor, without a moment in which another agent could claim it. */
export async function inheritPrefix(cidr: string, ops: Pick<OpsOptions, 'metrics' | 'ready'>): Promise<ClaimedPrefix> {
  const loopback = vipRange(cidr)
  const host = vipToIPv4(loopback, RESOLVER_VIP)
  return { loopback, ops: await Ops.start({ ...ops, host, port: OPS_PORT, isBeside: true }) }
}

/** @throws MeshError LISTEN_FAILED while another agent claims the same prefix */
async function lockClaim(host: string): Promise<AsyncDisposable> {
  const server = createServer((socket) => socket.destroy())
  try {
    await once(server.listen({ host, port: CLAIM_PORT, exclusive: true }), 'listening')
  } catch (cause) {
    throw new MeshError('LISTEN_FAILED', { address: `${host}:${CLAIM_PORT}` }, { cause })
  }
  return server
}

const LOOPBACK_PREFIXES = Array.from({ length: 15 }, (_, block) => `127.${16 * (block + 1)}.0.0/12`)

function remembered(file: KeptFile): string[] {
  const cidr = file.readText()?.trim() ?? ''
  return LOOPBACK_PREFIXES.includes(cidr) ? [cidr] : []
}
