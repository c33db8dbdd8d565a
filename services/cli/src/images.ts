import { UserError } from './console.js'
import type { ClusterLayout, Places } from './layout.js'

export async function importImage(_layout: ClusterLayout, _places: Places, _file: string): Promise<void> {
  throw new UserError('image import needs the kubelet')
}
