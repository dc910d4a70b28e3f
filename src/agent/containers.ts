import { createHash } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { CheckReport } from '../client/reports.ts'
import { KeptFile } from '../core/kit/kept-file.ts'
import { RESOLVER_VIP, vipToIPv4, type VipRange } from '../core/model/address.ts'
import { mayUseNft, systemNft } from '../../proxy/intercept/nft.ts'
import { ContainerGuard } from '../orchestrator/worker/docker/container-guard.ts'
import { prefix6, wouldLoseRoute } from '../orchestrator/worker/docker/container-ipv6.ts'
import { DockerRuntime } from '../orchestrator/worker/docker/docker-runtime.ts'
import { PulledImages } from '../orchestrator/worker/docker/pulled-images.ts'
import { SecretFiles } from '../orchestrator/worker/secret-files.ts'
import type { AgentContext } from './context.ts'
import type { NodeIdentity } from './node-identity.ts'

/** The runtime `docker`, and what its containers have of this node. */
export interface Containers {
  /** Absent: switched off. */
  readonly runtime: DockerRuntime | undefined
  readonly guard: ContainerGuard | undefined
  /** The bridge of the containers, whose neighbours may call; in host mode only. */
  readonly interfaces: readonly string[]
  /** Why containers cannot call by name, where they cannot. */
  readonly limit: string | undefined
  /** Why they have IPv4 alone, where they have. */
  readonly withoutIPv6: string | undefined
}

/** An engine that is started later is found within this. */
const LOOK_MS = 15_000
const DNS_PORT = 53
const HOUR_MS = 3_600_000

/** Looks for a container engine before the first report to the cluster, and again while the agent runs. */
export async function openContainers(
  { life, self, dir, config, clock, log }: AgentContext,
  { vips, loopback }: Pick<NodeIdentity, 'vips' | 'loopback'>,
  environment: Readonly<Record<string, string | undefined>>,
): Promise<Containers> {
  const { engine: setting, privileged, subnet, ipv6, hostPorts, hostPaths, keepImagesHours } = config.containers
  if (setting === 'off')
    return { runtime: undefined, guard: undefined, interfaces: [], limit: undefined, withoutIPv6: undefined }
  const digest = createHash('sha256').update(dir).digest('hex')
  const bridge = `br-h${digest.slice(0, 10)}` // as other bridges of containers are called: never an address of the node
  const limit = limitOf(config)
  const child = log.child({ part: 'containers' })
  const guard = new ContainerGuard({
    name: `hedgerow_containers_${digest.slice(0, 12)}`,
    bridge,
    vips4: vips.cidr4,
    vips6: vips.cidr6,
    apply: mayUseNft() ? (rules) => systemNft.apply(rules) : undefined,
    log: child,
  })
  await guard.open()
  const withoutIPv6 = whyNoIPv6Inside({ setting: ipv6, mode: config.mode, vips, guard })
  const runtime = new DockerRuntime({
    node: self,
    engine: { setting, environment, uid: process.getuid?.() },
    network: {
      agent: `hedgerow-${digest.slice(0, 12)}`,
      bridge,
      subnet,
      avoids: vipRanges(vips, loopback),
      ipv6: withoutIPv6 === undefined ? prefix6(digest.slice(-10)) : undefined,
    },
    guard,
    hostPorts,
    hostPaths,
    allowsPrivileged: privileged,
    resolvConf: limit === undefined ? await writeResolvConf(dir, vipToIPv4(vips, RESOLVER_VIP)) : undefined,
    seesVips: config.mode === 'host',
    secretFiles: new SecretFiles(dir, 'containers'),
    images: new PulledImages({
      record: life.use(new KeptFile(join(dir, 'images.json'), log, clock)),
      keepMs: keepImagesHours * HOUR_MS,
      log: child,
    }),
    clock,
    log: child,
  })
  await runtime.refresh()
  life.every(LOOK_MS, () => runtime.refresh(), 'container engine')
  return { runtime, guard, interfaces: config.mode === 'host' ? [bridge] : [], limit, withoutIPv6 }
}

function limitOf({ mode, resolver: { port } }: AgentContext['config']): string | undefined {
  if (mode !== 'host')
    return 'containers can be called, but cannot call by name: VIPs are on the loopback of this machine (--mode host gives them addresses that containers reach)'
  if (port === 0 || port === DNS_PORT) return undefined
  return `containers cannot resolve names: resolv.conf cannot name port ${port} (agent.resolver.port)`
}

/** Without VIPs of IPv6 it leads nowhere; without rules a container could send from the address of another. */
function whyNoIPv6Inside({
  setting,
  mode,
  vips,
  guard,
}: {
  setting: 'auto' | 'off'
  mode: 'loopback' | 'host'
  vips: VipRange
  guard: ContainerGuard
}): string | undefined {
  if (setting === 'off') return 'agent.containers.ipv6 is off'
  if (mode !== 'host') return 'VIPs are on the loopback of this machine'
  if (vips.cidr6 === undefined) return 'there are no VIPs of IPv6 on this node'
  return guard.reason ?? wouldLoseRoute()
}

function vipRanges(...ranges: readonly VipRange[]): { cidr: string; of: string }[] {
  return [...new Set(ranges.map(({ cidr4 }) => cidr4))].map((cidr) => ({ cidr, of: 'the VIPs' }))
}

/** What containers get as /etc/resolv.conf: the name server of this agent alone, which asks others for all other names. */
async function writeResolvConf(dir: string, address: string): Promise<string> {
  const path = join(dir, 'container-resolv.conf')
  await writeFile(path, `nameserver ${address}\n`, { mode: 0o644 })
  return path
}

/** For `check`: not a fault where nothing asks for containers. */
export function containersCheck({ runtime, guard, limit, withoutIPv6 }: Containers): CheckReport['checks'][number] {
  const check = 'containers'
  if (runtime === undefined) return { check, ok: true, finding: 'off (agent.containers.engine)' }
  if (!runtime.isOffered) return { check, ok: true, finding: `not offered: ${runtime.finding}` }
  const missing = [
    ...(limit === undefined ? [] : [limit]),
    ...(limit === undefined && withoutIPv6 !== undefined ? [`no IPv6 in containers: ${withoutIPv6}`] : []),
    ...(guard?.reason === undefined ? [] : [`egress none is not offered: ${guard.reason}`]),
  ]
  return { check, ok: true, finding: [runtime.finding, ...missing].join('; ') }
}
