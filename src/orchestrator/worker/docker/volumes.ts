import { realpathSync } from 'node:fs'
import { explain, MeshError } from '../../../core/errors.ts'
import type { ServiceSpec, VolumeSpec } from '../../spec.ts'
import { LABELS } from './labels.ts'
import type { Engine } from './engine.ts'

/*
 * Volumes of containers:
 *
 *     named        the engine's, one for each name of an app on a node: hedgerow-<agent>-shop.acme.data. Nobody removes it but its operator
 *     host_path    a folder of the machine, below one of those that its operator allows, also where a link leads to it
 */

type Volumes = Pick<ServiceSpec, 'app' | 'appNamespace' | 'volumes'>

/** An entry of `Mounts` of the Engine API. */
export interface Mount {
  Type: 'bind' | 'volume'
  Source: string
  Target: string
  ReadOnly: boolean
}

/** Why a node does not have them. */
export function refusedVolume({ volumes = [] }: Volumes, allowed: readonly string[]): string | undefined {
  const refused = volumes.find(({ hostPath }) => hostPath !== undefined && !isBelow(hostPath, allowed))
  if (refused === undefined) return undefined
  const are = allowed.length === 0 ? 'empty' : allowed.join(', ')
  return `host_path ${refused.hostPath} is not allowed on this node (agent.containers.hostPaths is ${are})`
}

/** Makes those that the engine does not have yet. @throws MeshError RUNTIME_FAILED, and what the engine refuses with */
export async function makeVolumes(
  engine: Engine,
  spec: Volumes,
  { agent, hostPaths, signal }: { agent: string; hostPaths: readonly string[]; signal: AbortSignal },
): Promise<Mount[]> {
  const mounts: Mount[] = []
  for (const volume of spec.volumes ?? []) {
    const { name, path: Target, readOnly: ReadOnly = false, hostPath } = volume
    if (hostPath !== undefined) {
      mounts.push({ Type: 'bind', Source: folderOf(hostPath, hostPaths), Target, ReadOnly })
      continue
    }
    const Name = volumeName(agent, spec, volume)
    const Labels = { [LABELS.agent]: agent, [LABELS.volume]: `${spec.app}.${spec.appNamespace}.${name}` }
    await engine.ask({ method: 'POST', path: '/volumes/create', body: { Name, Labels }, signal })
    mounts.push({ Type: 'volume', Source: Name, Target, ReadOnly })
  }
  return mounts
}

function volumeName(agent: string, { app, appNamespace }: Volumes, { name }: VolumeSpec): string {
  return `${agent}-${app}.${appNamespace}.${name}`
}

/** Where links lead to, which must be allowed, too: a container may have made them. */
function folderOf(path: string, allowed: readonly string[]): string {
  const reason = (text: string) => new MeshError('RUNTIME_FAILED', { reason: `host_path ${path}: ${text}` })
  let found: string
  try {
    found = realpathSync(path)
  } catch (error) {
    throw reason(explain(error))
  }
  if (!isBelow(found, allowed.map(resolved)))
    throw reason(`it leads to ${found}, which is not allowed on this node (agent.containers.hostPaths)`)
  return found
}

function resolved(path: string): string {
  try {
    return realpathSync(path)
  } catch {
    return path
  }
}

function isBelow(path: string, folders: readonly string[]): boolean {
  return folders.some((folder) => path === folder || path.startsWith(folder.endsWith('/') ? folder : `${folder}/`))
}
