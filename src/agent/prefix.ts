import { once } from 'node:events'
import { createServer, type Server } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { isMeshError, MeshError } from '../core/errors.ts'
import type { KeptFile } from '../core/kit/kept-file.ts'
import { RESOLVER_VIP, vipRange, vipToIPv4, type VipRange } from '../core/model/address.ts'
import { Ops, type OpsOptions } from '../roles/ops-server.ts'

/** The health port on the agent's own prefix; the agent that is bound to it has the prefix. */
const OPS_PORT = 7473
/** Bound while a prefix is claimed. The health address is shared with an agent that takes over; this one is not. */
const CLAIM_PORT = 7474
/** Another agent that starts claims a prefix for a moment, to see whether it is free: the one of last time is worth waiting for. */
const CLAIM_MS = 2_000
const CLAIM_AGAIN_MS = 50

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
  const preferred = wanted === 'auto' ? remembered(file) : [wanted]
  const candidates = wanted === 'auto' ? [...preferred, ...LOOPBACK_PREFIXES] : preferred
  let cause: unknown
  for (const [at, cidr] of candidates.entries()) {
    const loopback = vipRange(cidr)
    try {
      const host = vipToIPv4(loopback, RESOLVER_VIP)
      await using _claim = await lockClaim(host, at < preferred.length ? CLAIM_MS : 0)
      const claimed = await Ops.start({ ...ops, host, port: OPS_PORT })
      if (wanted === 'auto') await file.put(cidr)
      return { loopback, ops: claimed }
    } catch (error) {
      if (!isMeshError(error, 'LISTEN_FAILED') || wanted !== 'auto') throw error
      cause = error
    }
  }
  const address = `127.16.0.0/12 … 127.240.0.0/12, port ${OPS_PORT}`
  throw new MeshError('LISTEN_FAILED', { address, reason: 'none of them is free' }, { cause })
}

/** Takes over the prefix of the predecessor, without a moment in which another agent could claim it. */
export async function inheritPrefix(cidr: string, ops: Pick<OpsOptions, 'metrics' | 'ready'>): Promise<ClaimedPrefix> {
  const loopback = vipRange(cidr)
  const host = vipToIPv4(loopback, RESOLVER_VIP)
  return { loopback, ops: await Ops.start({ ...ops, host, port: OPS_PORT, isBeside: true }) }
}

/** @throws MeshError LISTEN_FAILED while another agent claims the same prefix */
async function lockClaim(host: string, waitMs: number): Promise<AsyncDisposable> {
  for (const startedAt = performance.now(); ; ) {
    try {
      return await listenForClaim(host)
    } catch (cause) {
      if (performance.now() - startedAt >= waitMs)
        throw new MeshError('LISTEN_FAILED', { address: `${host}:${CLAIM_PORT}` }, { cause })
      await sleep(CLAIM_AGAIN_MS)
    }
  }
}

async function listenForClaim(host: string): Promise<Server> {
  const server = createServer((socket) => socket.destroy())
  await once(server.listen({ host, port: CLAIM_PORT, exclusive: true }), 'listening')
  return server
}

const LOOPBACK_PREFIXES = Array.from({ length: 15 }, (_, block) => `127.${16 * (block + 1)}.0.0/12`)

function remembered(file: KeptFile): string[] {
  const cidr = file.readText()?.trim() ?? ''
  return LOOPBACK_PREFIXES.includes(cidr) ? [cidr] : []
}
