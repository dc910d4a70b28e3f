import type { ServiceSpec } from '../../spec.ts'
import { refusalOfPorts } from '../host-ports.ts'
import { refusedVolume } from './volumes.ts'

/** What the operator of a node allows, and what the node can keep. */
export interface ContainerPolicy {
  /** The ports of the machine that documents may ask for, `first-last`, or `off`. */
  hostPorts: string
  /** The folders of the machine that documents may ask for, with all in them. */
  hostPaths: readonly string[]
  /** Documents may ask for `privileged`. */
  allowsPrivileged: boolean
}

/** Why a node with an engine does not run this container; `guardReason`: why it has no rules, where it has none. */
export function containerRefusal(
  spec: ServiceSpec,
  { hostPorts, hostPaths, allowsPrivileged }: ContainerPolicy,
  guardReason: string | undefined,
): string | undefined {
  const port = refusalOfPorts(spec.ports, hostPorts)
  if (port !== undefined) return port
  if (spec.egress === 'none' && guardReason !== undefined)
    return `egress none cannot be kept on this node: ${guardReason}`
  const volume = refusedVolume(spec, hostPaths)
  if (volume !== undefined) return volume
  if (spec.privileged !== true || allowsPrivileged) return undefined
  return 'privileged containers are not allowed on this node (agent.containers.privileged)'
}
