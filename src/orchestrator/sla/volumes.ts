import { posix } from 'node:path'
import type { FileSpec, ServiceSpec, VolumeSpec } from '../spec.ts'
import { Fields } from './fields.ts'
import { quoted, type Findings } from './findings.ts'
import { labelsOf, readName } from './names.ts'

/** Of all files of a service, in bytes: they are in every message about it, and in the memory of its nodes. */
const MAX_CONTENT = 256 * 1024

/** Files and folders that an instance has beside its program. */
export function readMounts(
  fields: Fields,
  runtime: string,
  findings: Findings,
): Pick<ServiceSpec, 'files' | 'volumes'> {
  const places = new Places(runtime === 'docker' ? ['/etc/resolv.conf', '/run/secrets'] : [], findings)
  const volumes = readVolumes(fields, { runtime, places, findings })
  const files = readFiles(fields, places, findings)
  if (runtime === 'external' && files.length > 0)
    findings.warn(fields.at('files'), 'has no effect in the runtime external')
  if (runtime !== 'docker' && runtime !== 'process' && volumes.length > 0)
    findings.warn(fields.at('volumes'), `has no effect in the runtime ${runtime}`)
  return {
    ...(files.length === 0 ? {} : { files }),
    ...(volumes.length === 0 || (runtime !== 'docker' && runtime !== 'process') ? {} : { volumes }),
  }
}

/** The paths within an instance, each taken once, and none within a file. */
class Places {
  readonly #files: Set<string>
  readonly #folders = new Set<string>()
  readonly #findings: Findings

  constructor(taken: readonly string[], findings: Findings) {
    this.#files = new Set(taken)
    this.#findings = findings
  }

  /** Reported, and `undefined`, when it cannot be there. */
  take(fields: Fields, key: string, kind: 'file' | 'folder'): string | undefined {
    const path = fields.text(key)
    const fault = path === undefined ? 'is missing' : (pathFault(path) ?? this.#clash(path, kind))
    if (fault !== undefined || path === undefined) {
      if (path !== undefined || !fields.isGiven(key)) this.#findings.fault(fields.at(key), fault ?? 'is missing')
      return undefined
    }
    ;(kind === 'file' ? this.#files : this.#folders).add(path)
    return path
  }

  #clash(path: string, kind: 'file' | 'folder'): string | undefined {
    const all = [...this.#files, ...this.#folders]
    const other =
      all.find((taken) => taken === path) ??
      [...this.#files].find((taken) => path.startsWith(`${taken}/`)) ??
      (kind === 'file' ? all.find((taken) => taken.startsWith(`${path}/`)) : undefined)
    if (other === undefined) return undefined
    return other === path ? `${quoted(path)} is taken` : `${quoted(path)} and ${quoted(other)} cannot both be there`
  }
}

/** Of a path that a document names: absolute, and without detours. */
function pathFault(path: string): string | undefined {
  const isPlain = path.startsWith('/') && path !== '/' && !path.endsWith('/') && posix.normalize(path) === path
  if (isPlain && /^[^\p{Cc}]+$/u.test(path)) return undefined
  return `${quoted(path)} must be an absolute path without "..", such as "/etc/cart/config.yaml"`
}

function readFiles(service: Fields, places: Places, findings: Findings): FileSpec[] {
  let bytes = 0
  const files = service.list('files').flatMap((value, i): FileSpec[] => {
    const fields = Fields.read(value, ['file'], `${service.at('files')}[${i}]`, findings)
    const path = fields && places.take(fields, 'path', 'file')
    if (fields === undefined || path === undefined) return []
    const [content, secret] = [fields.text('content'), fields.text('secret')]
    if (secret !== undefined && content === undefined) {
      const labels = labelsOf(secret)
      if (labels?.length === 1) return [{ path, secret: labels.join('') }]
      const remedy = 'write the last part of its name: db-password for shop.acme.db-password'
      findings.fault(fields.at('secret'), `${quoted(secret)} is not the name of a secret`, remedy)
      return []
    }
    if (content === undefined || secret !== undefined) {
      findings.fault(fields.path, 'needs either content or secret')
      return []
    }
    bytes += Buffer.byteLength(content)
    return [{ path, content }]
  })
  if (bytes > MAX_CONTENT)
    findings.fault(
      service.at('files'),
      `are ${bytes} bytes in all; ${MAX_CONTENT} is the limit`,
      'put them in the image',
    )
  return files
}

function readVolumes(
  service: Fields,
  { runtime, places, findings }: { runtime: string; places: Places; findings: Findings },
): VolumeSpec[] {
  return service.list('volumes').flatMap((value, i): VolumeSpec[] => {
    const fields = Fields.read(value, ['volume'], `${service.at('volumes')}[${i}]`, findings)
    const name = fields && readName(fields, 'volume_id', findings)
    const path = fields && places.take(fields, 'mount_path', 'folder')
    if (fields === undefined || name === undefined || path === undefined) return []
    const hostPath = fields.text('host_path')
    const fault = hostPath === undefined ? undefined : pathFault(hostPath)
    if (fault !== undefined) findings.fault(fields.at('host_path'), fault)
    if (runtime === 'process' && hostPath !== undefined) {
      const remedy = 'a program opens folders of its node by their paths; leave it out'
      findings.fault(fields.at('host_path'), 'is for containers', remedy)
      return []
    }
    if (runtime === 'process' && fields.flag('read_only'))
      findings.warn(fields.at('read_only'), 'has no effect in the runtime process')
    const readOnly = fields.flag('read_only') ? { readOnly: true as const } : {}
    return [{ name, path, ...readOnly, ...(hostPath === undefined ? {} : { hostPath }) }]
  })
}
