import type { FileSpec, SecretValue, ServiceSpec } from '../spec.ts'

/** What a run gets as files, by their paths: the text of the document, or the value of a secret. */
export function filesOf({ files = [] }: Pick<ServiceSpec, 'files'>, given: readonly SecretValue[]): SecretValue[] {
  return files.map((file) => ({ name: file.path, value: valueOf(file, given) }))
}

/** Those in the folder of secrets: the others are somewhere else, or for the registry. */
export function secretsOfFolder(
  { secrets = [], files = [], registrySecret }: Pick<ServiceSpec, 'secrets' | 'files' | 'registrySecret'>,
  given: readonly SecretValue[],
): SecretValue[] {
  const elsewhere = new Set([registrySecret, ...files.map(({ secret }) => secret)])
  return given.filter(({ name }) => secrets.includes(name) || !elsewhere.has(name))
}

function valueOf({ content = '', secret }: FileSpec, given: readonly SecretValue[]): Buffer {
  return given.find(({ name }) => name === secret)?.value ?? Buffer.from(content)
}
