import { type Environment } from "./environment.js";
/** A device's name, held by this tab alone until it is released. */
export interface Device {
    readonly name: string | undefined;
    release(): void;
}
/**
 * The device of this tab: a name in sessionStorage, so that a refresh keeps it. A tab that was duplicated
 * starts with a copy of it; whoever finds the name in use takes another. Where there is no sessionStorage
 * (Node, workers) there is no device.
 */
export declare function tabDevice(env: Environment, tenant: string): Promise<Device>;
