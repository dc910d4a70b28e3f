import type { Clock } from '../../../core/kit/clock.ts'
import type { Log } from '../../../core/kit/log.ts'
import type { SecretFiles } from '../secret-files.ts'
import type { ContainerGuard } from './container-guard.ts'
import type { NetworkOptions } from './container-network.ts'
import type { ContainerPolicy } from './container-refusal.ts'
import type { EngineWhere } from './find-engine.ts'
import type { PulledImages } from './pulled-images.ts'

export interface DockerOptions extends ContainerPolicy {
  /** The node's id, for HEDGEROW_NODE. */
  node: string
  engine: EngineWhere
  network: NetworkOptions
  /** Rules for what containers send. */
  guard: ContainerGuard
  /** The file that containers get as /etc/resolv.conf; absent: the engine's own. */
  resolvConf: string | undefined
  /** VIPs lead to this machine from inside containers, and callers may be shown to them under theirs. */
  seesVips: boolean
  secretFiles: SecretFiles
  images: PulledImages
  clock?: Clock
  log: Log
}
