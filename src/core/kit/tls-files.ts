import { readFileSync } from 'node:fs'
import { createSecureContext } from 'node:tls'
import { MeshError } from '../errors.ts'

/** Paths of PEM files, as an operator names them. */
export interface TlsFiles {
  /** Authorities that count for the other side; those of Node otherwise. */
  ca?: string
  /** What this side shows, with its chain. */
  certificate?: string
  key?: string
}

/** What they hold now: a certificate that was renewed counts from the next connection on. @throws when one cannot be read */
export function readTlsFiles({ ca, certificate, key }: TlsFiles): { ca?: string; cert?: string; key?: string } {
  return {
    ...(ca === undefined ? {} : { ca: readFileSync(ca, 'utf8') }),
    ...(certificate === undefined ? {} : { cert: readFileSync(certificate, 'utf8') }),
    ...(key === undefined ? {} : { key: readFileSync(key, 'utf8') }),
  }
}

/** `setting` is for the error. @throws MeshError CONFIG_INVALID */
export function checkTlsFiles(setting: string, files: TlsFiles): void {
  const invalid = (reason: string, cause?: unknown) =>
    new MeshError('CONFIG_INVALID', { problem: `${setting}: ${reason}` }, { cause })
  if ((files.certificate === undefined) !== (files.key === undefined))
    throw invalid('certificate and key are only of use together')
  try {
    createSecureContext(readTlsFiles(files))
  } catch (error) {
    throw invalid('these files cannot be used', error)
  }
}
